use super::*;

fn endpoints(names: &[&str]) -> Vec<(UpstreamId, String)> {
    names
        .iter()
        .map(|name| (UpstreamId::parse(name).unwrap(), format!("http://127.0.0.1:1/mcp/secret/{name}")))
        .collect()
}

fn check(argument: &str, expected: Result<&str, &str>) {
    let replaced = substitute(OsStr::new(argument), &endpoints(&["work", "git-hub"]));
    match (replaced, expected) {
        (Ok(replaced), Ok(expected)) => assert_eq!(replaced, expected),
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (replaced, expected) => panic!("{argument}: {replaced:?} instead of {expected:?}"),
    }
}

#[test]
fn placeholders_become_urls_and_unknown_ones_are_errors() {
    check("--url={mcp:work}", Ok("--url=http://127.0.0.1:1/mcp/secret/work"));
    check("{mcp:work},{mcp:git-hub}", Ok("http://127.0.0.1:1/mcp/secret/work,http://127.0.0.1:1/mcp/secret/git-hub"));
    check("plain {braces} and {mcp:work", Ok("plain {braces} and {mcp:work"));
    check("{mcp:other}", Err("{mcp:other}"));
    check("{mcp:}", Err("{mcp:}"));
}

#[test]
fn the_child_gets_the_urls_and_nothing_else_of_ours() {
    let variables = |names: &[&str]| {
        let command = prepare(&["agent".into(), "-v".into()], &endpoints(names)).unwrap();
        command
            .get_envs()
            .filter(|(_, value)| value.is_some())
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(variables(&["git-hub"]), ["COUNTERSIGN_MCP_URL", "COUNTERSIGN_MCP_URL_GIT_HUB"]);
    assert_eq!(variables(&["git-hub", "work"]), ["COUNTERSIGN_MCP_URL_GIT_HUB", "COUNTERSIGN_MCP_URL_WORK"]);
    assert!(matches!(prepare(&[], &endpoints(&["work"])), Err(RunError::NoCommand)));
}

/// A signal for this process reaches every job in it, so there is one job at a time.
static ONE_JOB: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn exit_code(script: &str) -> u8 {
    let _turn = ONE_JOB.lock().await;
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Job::start(&mut command).unwrap().wait().await.unwrap()
}

#[tokio::test]
async fn the_exit_code_is_the_childs() {
    assert_eq!(exit_code("exit 0").await, 0);
    assert_eq!(exit_code("exit 37").await, 37);
    assert_eq!(exit_code("kill -9 $$").await, 137);
}

#[tokio::test]
async fn nothing_of_the_group_survives_not_even_what_ignores_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("(trap '' TERM; echo $$ > /dev/null; exec sleep 1000) & echo $! > {}; exit 5", pid.display());
    assert_eq!(exit_code(&script).await, 5);
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());
}

#[tokio::test]
async fn a_signal_for_us_reaches_the_child() {
    let _turn = ONE_JOB.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let mut command = Command::new("sh");
    let script = "trap 'exit 42' TERM; : > \"$0\"; while :; do sleep 0.01; done";
    command.args(["-c", script]).arg(&ready);
    let job = Job::start(&mut command).unwrap();
    let waiting = tokio::spawn(job.wait());
    let mut step = tokio::time::interval(Duration::from_millis(5));
    while !ready.exists() {
        step.tick().await;
    }
    kill_ourselves_gently();
    assert_eq!(waiting.await.unwrap().unwrap(), 42);
}

/// SIGTERM to this test process, whose handler the job has installed.
fn kill_ourselves_gently() {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
}
