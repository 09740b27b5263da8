//! AUD-10: secrets and other people's data pass through, and stay nowhere: not in the log, not in what the process
//! says, not in its numbers, not on a page or in an answer that shows something else.

use std::path::Path;
use std::time::Duration;

use countersign_server::admin::client;
use countersign_testkit::insider::{Caller, tool_call};
use countersign_testkit::person::{Person, plain};
use countersign_testkit::story::AGENT;
use countersign_testkit::world::CREDENTIAL;
use http::{Request, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::Scene;
use crate::block_on;

/// A secret or private value, and what it is.
struct Canary {
    what: String,
    text: String,
    /// Whether the store keeps it: what a person is asked about has to be shown to them.
    stored: bool,
}

/// One place where it must not be.
struct Place {
    name: String,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Cage(Vec<Canary>);

impl Cage {
    /// A new value that nobody would use by chance.
    fn new_canary(&mut self, what: &str) -> String {
        let text = format!("canary{:03}x7f3a9", self.0.len());
        self.keep(what, &text);
        text
    }

    fn keep(&mut self, what: &str, text: &str) {
        assert!(text.len() >= 8, "{what}: {text:?} might be there by chance");
        self.0.push(Canary { what: what.to_owned(), text: text.to_owned(), stored: false });
    }

    /// The newest one has to be shown to a person, and is therefore in the store.
    fn is_stored(&mut self) {
        if let Some(newest) = self.0.last_mut() {
            newest.stored = true;
        }
    }
}

#[test]
fn what_passes_through_stays_nowhere() {
    let mut scene = Scene::new();
    // As talkative as our own code can be made.
    scene.stage.world.terminate(Duration::from_secs(30)).expect("it ends");
    // (A filter names targets by how they begin; this is all of ours.)
    scene.stage.world.set_log_filter("info,countersign=trace");
    scene.stage.world.power_on().expect("it comes back");
    let world = &scene.stage.world;
    let mut cage = Cage::default();
    cage.keep("the upstream's credential", CREDENTIAL.trim_start_matches("Bearer "));
    let enrollment = std::fs::read_to_string(world.dir().join("token-laptop")).expect("the enrollment token");
    cage.keep("an enrollment token that was used", enrollment.trim());
    let unused = world.cli(&["machine", "token", "later"]).expect("a token");
    cage.keep("an enrollment token that waits", unused["token"].as_str().expect("a token"));
    let invite = world.add_person("ada").expect("a person");
    cage.keep("an invitation", invite.rsplit('/').next().expect("its token"));

    // Granted for calls that are allowed, refused and approved.
    let tools = json!([
        { "name": "notes.read", "args": {} },
        { "name": "notes.write", "args": { "topic": { "eq": "roadmap" } } },
        { "name": "payments.refund", "args": {} },
    ]);
    scene.task = world.add_task(AGENT, &tools, 999, 3600).expect("a task");
    scene.token = block_on(scene.insider.token(&scene.task)).expect("a token");
    scene.begin_again();
    let world = &scene.stage.world;
    cage.keep("an access token", &scene.token);
    cage.keep("an access token's signature", &scene.token.rsplit('.').next().expect("a signature")[..40]);

    let mut person = Person::new(world.ready()).expect("a person");
    block_on(person.join(&invite)).expect("an approver");
    at_the_gateway(&scene, &mut cage);
    approved(&scene, &mut person, &mut cage);
    at_the_control_plane(&scene, &mut cage);
    at_the_console(&scene, &mut cage);

    let mut places = answers(&scene);
    let log = world.ready().log.clone();
    let world = &mut scene.stage.world;
    let status = world.terminate(Duration::from_secs(30)).expect("it ends");
    assert_eq!(status.code(), Some(0));
    let said = world.said().expect("what it said");
    assert!(said.contains("\"level\":\"DEBUG\"") || said.contains("DEBUG"), "it was not talkative: {said}");
    places.push(Place { name: "standard output and error".to_owned(), bytes: said.into_bytes() });
    files(&log, &mut places);
    files(&world.dir().join("dev/data/gateway"), &mut places);
    let records = super::records_on_disk(world);
    assert!(records.len() > 20, "so few records prove nothing");

    // The control: what may be there is found by the same search.
    let with = |text: &str| places.iter().filter(|place| contains(&place.bytes, text)).count();
    assert!(with(AGENT) >= 4 && with("dec_") >= 4 && with("notes.read") >= 3, "the search finds nothing");

    let found: Vec<String> = cage
        .0
        .iter()
        .flat_map(|canary| places.iter().map(move |place| (canary, place)))
        .filter(|(canary, place)| contains(&place.bytes, &canary.text))
        .map(|(canary, place)| format!("{} is in {}", canary.what, place.name))
        .collect();
    assert!(found.is_empty(), "{} canaries in {} places:\n{}", cage.0.len(), places.len(), found.join("\n"));
    println!("{} canaries, {} places, none found", cage.0.len(), places.len());

    // Secrets are sealed in the store, or only their digests are there.
    let mut store = Vec::new();
    files(&world.dir().join("dev/data/store.db"), &mut store);
    assert!(store.iter().any(|place| contains(&place.bytes, AGENT)), "the store is elsewhere");
    for canary in cage.0.iter().filter(|canary| !canary.stored) {
        assert!(
            !store.iter().any(|place| contains(&place.bytes, &canary.text)),
            "{} is in the store in the clear",
            canary.what
        );
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Headers, query, arguments; allowed, refused, malformed.
fn at_the_gateway(scene: &Scene, cage: &mut Cage) {
    let argument = cage.new_canary("an argument of an allowed call");
    let answer = block_on(
        scene.post(tool_call(1, "notes.read", &json!({ "topic": argument })).to_string().as_bytes(), |_| {}),
    );
    assert_eq!(answer.status, 200, "the control: {}", answer.json());
    let denied = cage.new_canary("an argument of a refused call");
    let arguments = json!({ "topic": denied, "text": denied });
    let answer = block_on(scene.post(tool_call(1, "notes.write", &arguments).to_string().as_bytes(), |_| {}));
    assert_eq!(answer.status, 403, "{}", answer.json());
    let name = cage.new_canary("an argument's name");
    let answer =
        block_on(scene.post(
            tool_call(1, "notes.read", &json!({ "topic": "x", name: 1 })).to_string().as_bytes(),
            |_| {},
        ));
    println!("an argument nobody declared: {}", answer.status);
    let wrong = cage.new_canary("an argument of the wrong type");
    let answer = block_on(
        scene.post(tool_call(1, "notes.read", &json!({ "topic": [wrong] })).to_string().as_bytes(), |_| {}),
    );
    println!("an argument of the wrong type: {}", answer.status);

    let good = tool_call(1, "notes.read", &json!({ "topic": "roadmap" })).to_string();
    for header in [
        "authorization",
        "dpop",
        "countersign-channel",
        "cookie",
        "x-api-key",
        "origin",
        "mcp-session-id",
        "mcp-protocol-version",
        "countersign-approval",
        "content-encoding",
    ] {
        let canary = cage.new_canary(&format!("the header {header}"));
        let value = match header {
            "authorization" => format!("DPoP {canary}.{canary}.{canary}"),
            "cookie" => format!("session={canary}"),
            "origin" => format!("https://{canary}.example"),
            _ => canary,
        };
        let answer = block_on(scene.try_post(good.as_bytes(), |headers| {
            headers.retain(|(name, _)| name != header);
            headers.push((header.to_owned(), value));
        }));
        assert!(answer.is_ok(), "{header}");
    }
    let bearer = cage.new_canary("a bearer token");
    block_on(scene.post(good.as_bytes(), |headers| headers[0].1 = format!("Bearer {bearer}")));

    let malformed = cage.new_canary("a body that is no JSON");
    let answer =
        block_on(scene.post(format!("{{\"jsonrpc\":\"2.0\",\"secret\":\"{malformed}\"").as_bytes(), |_| {}));
    assert_eq!(answer.status, 400);
    let doubled = cage.new_canary("a name that is there twice");
    let answer = block_on(scene.post(
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"notes.read","arguments":{{"{doubled}":1,"{doubled}":2}}}}}}"#).as_bytes(),
        |_| {},
    ));
    assert_eq!(answer.status, 400);
    let binary = cage.new_canary("a binary body");
    let answer =
        block_on(scene.post(&[b"\xff\xfe\x00".as_slice(), binary.as_bytes(), b"\x00"].concat(), |_| {}));
    assert_eq!(answer.status, 400);

    let query = cage.new_canary("a query");
    let url = format!("{}?key={query}", scene.insider.url());
    let answer =
        block_on(scene.insider.caller.post(&url, &[], good.clone().into_bytes())).expect("an answer");
    assert_eq!(answer.status, 404);
    let path = cage.new_canary("a path");
    let url = format!("{}/{path}", scene.stage.world.ready().gateway);
    let answer = block_on(scene.insider.caller.post(&url, &[], good.into_bytes())).expect("an answer");
    assert_eq!(answer.status, 404);
}

/// Arguments that a person approves, and arguments that a person refuses.
fn approved(scene: &Scene, person: &mut Person, cage: &mut Cage) {
    for (what, yes) in
        [("an argument that a person approved", true), ("an argument that a person refused", false)]
    {
        let canary = cage.new_canary(what);
        cage.is_stored();
        let arguments = json!({ "account": canary, "cents": 5, "reason": canary });
        let call = tool_call(1, "payments.refund", &arguments).to_string();
        let asked = block_on(scene.post(call.as_bytes(), |_| {})).json();
        let id =
            asked["error"]["data"]["approval"]["id"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned();
        let page = block_on(person.open(&format!("/approvals/{id}"))).expect("its page");
        assert!(page.contains(&canary), "the person who is asked sees what about");
        let status = if yes { block_on(person.approve(&id)) } else { block_on(person.refuse(&id)) }
            .expect("an answer")
            .status;
        assert!([200, 303].contains(&status), "{status}");
        let answer =
            block_on(scene.post(call.as_bytes(), |headers| {
                headers.push(("countersign-approval".to_owned(), id.clone()))
            }));
        assert_eq!(answer.status, if yes { 200 } else { 403 }, "{}", answer.json());
    }
}

fn at_the_control_plane(scene: &Scene, cage: &mut Cage) {
    let caller = Caller::anonymous(scene.stage.world.ready()).expect("a caller");
    let mut form = scene.insider.token_form(&scene.task);
    form.push(("client_secret".to_owned(), cage.new_canary("a client secret")));
    let headers: Vec<(&str, String)> =
        ["authorization", "dpop", "oauth-client-attestation", "oauth-client-attestation-pop", "cookie"]
            .map(|name| {
                (name, format!("Basic {}", cage.new_canary(&format!("the token request's header {name}"))))
            })
            .to_vec();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = block_on(scene.insider.token_request(&form, &headers)).expect("an answer");
    assert!((400..=401).contains(&answer.status), "{}", answer.json());
    let details = cage.new_canary("authorization details");
    let mut form = scene.insider.token_form(&scene.task);
    form.retain(|(name, _)| name != "authorization_details");
    form.push(("authorization_details".to_owned(), format!("[{{\"type\":\"{details}\"")));
    block_on(scene.insider.token_request(&form, &[])).expect("an answer");

    let posts = [
        (
            "/attest/v1/ak",
            "application/json",
            format!(r#"{{"token":"{}"}}"#, cage.new_canary("a wrong enrollment token")),
        ),
        (
            "/attest/v1/client-attestation",
            "application/json",
            format!(r#"{{"client_id":"{}"}}"#, cage.new_canary("a field of an attestation")),
        ),
        (
            "/acme/new-account",
            "application/jose+json",
            format!(
                r#"{{"protected":"{0}","payload":"{0}","signature":"{0}"}}"#,
                cage.new_canary("an ACME request")
            ),
        ),
        ("/oauth/nowhere", "application/json", cage.new_canary("a body for nobody")),
    ];
    for (path, kind, body) in posts {
        let query = cage.new_canary("a query of the control plane");
        let request = Request::post(format!("{path}?q={query}"))
            .header(header::CONTENT_TYPE, kind)
            .header(header::COOKIE, cage.new_canary("a cookie of the control plane"))
            .body(Full::from(body))
            .expect("a request");
        let answer = block_on(caller.to_server(request)).expect("an answer");
        assert!(answer.status >= 400, "{path}");
    }
}

fn at_the_console(scene: &Scene, cage: &mut Cage) {
    let host = scene.stage.world.ready().console.trim_start_matches("http://").to_owned();
    for path in ["/login/finish", "/invite/none/register", "/nowhere"] {
        let request = Request::post(path)
            .header(header::HOST, &host)
            .header(header::ORIGIN, format!("http://{host}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::COOKIE, format!("countersign={}", cage.new_canary("a cookie of the console")))
            .header("countersign-csrf", cage.new_canary("a CSRF token"))
            .body(Full::from(json!({ "id": cage.new_canary("a passkey's answer") }).to_string()))
            .expect("a request");
        let answer = block_on(plain(&host, request)).expect("an answer");
        assert!(answer.status >= 400, "{path}");
    }
    let token = cage.new_canary("a guessed invitation");
    let request = Request::get(format!("/invite/{token}"))
        .header(header::HOST, &host)
        .body(Full::default())
        .expect("a request");
    assert_eq!(block_on(plain(&host, request)).expect("an answer").status, 404);
}

/// Everything that can be asked for without a passkey.
fn answers(scene: &Scene) -> Vec<Place> {
    let world = &scene.stage.world;
    let admin = &world.ready().admin;
    let mut places = Vec::new();
    for path in ["/metrics", "/healthz", "/readyz"] {
        let text = client::fetch_text(admin, path).expect("an answer");
        places.push(Place { name: path.to_owned(), bytes: text.into_bytes() });
    }
    let agent = format!("/admin/v1/agents/{AGENT}");
    for path in [
        "/admin/v1/status",
        "/admin/v1/snapshot",
        "/admin/v1/records?from=0&limit=1000",
        "/admin/v1/persons",
        "/admin/v1/agents",
        agent.as_str(),
        "/admin/v1/machines",
        "/admin/v1/tasks",
        "/admin/v1/policies",
        "/admin/v1/upstreams",
        "/admin/v1/approvals",
    ] {
        let answer: Value = client::call(admin, "GET", path, &json!({})).expect("an answer");
        places.push(Place { name: path.to_owned(), bytes: answer.to_string().into_bytes() });
    }
    let host = world.ready().console.trim_start_matches("http://").to_owned();
    for path in [
        "/",
        "/login",
        "/approvals",
        "/approvals/apr_AAAAAAAAAAAAAAAAAAAAAA",
        "/nowhere",
        "/assets/console.js",
        "/assets/console.css",
    ] {
        let request =
            Request::get(path).header(header::HOST, &host).body(Full::default()).expect("a request");
        let answer = block_on(plain(&host, request)).expect("an answer");
        places.push(Place { name: format!("the console's {path}"), bytes: answer.body });
    }
    places
}

/// A file, or every file below a folder. A name that is the start of several (a database and its journal) is all of them.
fn files(path: &Path, places: &mut Vec<Place>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder") {
            files(&entry.expect("an entry").path(), places);
        }
        return;
    }
    let (folder, name) =
        (path.parent().expect("a folder"), path.file_name().expect("a name").to_string_lossy().into_owned());
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let file = entry.expect("an entry").path();
        let own = file.file_name().is_some_and(|other| other.to_string_lossy().starts_with(&name));
        if own && file.is_file() && !places.iter().any(|place| place.name == file.display().to_string()) {
            let bytes = std::fs::read(&file).expect("a file");
            places.push(Place { name: file.display().to_string(), bytes });
        }
    }
}
