//! The story of the demo, scene by scene, as a test.

use countersign_testkit::story::{Scene, Story};

use crate::{Stage, block_on};

#[test]
fn every_scene_of_the_story_ends_as_promised() {
    let stage = Stage::new();
    let mut story = Story::new(&stage.world, |scene: &Scene| println!("{} — {}", scene.name, scene.verdict));
    let cast = story.set_up().expect("the set-up works");
    story.work(&cast).expect("the agent can work");
    block_on(story.thefts(&cast)).expect("the thieves can try");
    story.verify_log().expect("the log can be read");
    let bad: Vec<&Scene> = story.scenes().iter().filter(|scene| !scene.holds()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(story.scenes().len() >= 20, "a story that ends early proves nothing");
}
