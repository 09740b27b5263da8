//! What `run` lets through and what it refuses.

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
    check(
        "{mcp:work},{mcp:git-hub}",
        Ok("http://127.0.0.1:1/mcp/secret/work,http://127.0.0.1:1/mcp/secret/git-hub"),
    );
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
    let script =
        format!("(trap '' TERM; echo $$ > /dev/null; exec sleep 1000) & echo $! > {}; exit 5", pid.display());
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

fn config(world: &crate::fake::World, upstreams: &[&str]) -> RunConfig {
    RunConfig {
        session: world.config(),
        upstreams: upstreams.iter().map(|name| UpstreamId::parse(name).unwrap()).collect(),
        proof: ProofKind::Channel,
        hold_limit: Duration::from_secs(5),
        start_patience: Duration::from_secs(2),
    }
}

async fn run_in(world: &crate::fake::World, upstreams: &[&str], command: &[&str]) -> Result<u8, RunError> {
    let _turn = ONE_JOB.lock().await;
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    let clock = Arc::new(crate::fake::SharedClock(Arc::clone(&world.shared)));
    run(config(world, upstreams), &command, clock, Arc::new(crate::fake::SystemEntropy)).await
}

/// What an agent does, in the shell: a call to the URL in `$1`.
const CALL: &str = r#"
    rest=${1#http://}; address=${rest%%/*}; path=/${rest#*/}
    exec 3<>"/dev/tcp/${address%:*}/${address#*:}"
    body='{"jsonrpc":"2.0","id":1,"method":"ping"}'
    printf 'POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' \
        "$path" "$address" "${#body}" "$body" >&3
    read -r _ status _ <&3
    exec 3>&-
    [ "$status" = 200 ] || exit 9
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_calls_through_the_proxy_and_its_exit_code_comes_back() {
    let world = crate::fake::World::start().await;
    let script = format!("{CALL}\nexit 23");
    let code = run_in(&world, &["work"], &["bash", "-c", &script, "agent", "{mcp:work}"]).await.unwrap();
    assert_eq!(code, 23);
    let seen = world.shared.calls();
    assert_eq!((seen.len(), seen[0].proof.as_str(), seen[0].machine), (1, "channel", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_process_holds_nothing_but_the_url() {
    let world = crate::fake::World::start().await;
    let out = world.dir.path().join("out");
    let script = format!(
        "{{ cat /proc/$$/environ /proc/$$/cmdline | tr '\\0' '\\n'; ls -l /proc/$$/fd; }} > {out}; {CALL}",
        out = out.display()
    );
    assert_eq!(run_in(&world, &["work"], &["bash", "-c", &script, "agent", "{mcp:work}"]).await.unwrap(), 0);
    let shown = std::fs::read_to_string(out).unwrap();
    let ours: Vec<_> = shown.lines().filter(|line| line.starts_with("COUNTERSIGN_")).collect();
    assert_eq!(ours.len(), 2, "{ours:?}");
    assert!(ours.iter().all(|line| line.contains("=http://127.0.0.1:")), "{ours:?}");
    for handle in ["tpm.sock", "socket:", "/state", "anon_inode:[event"] {
        assert!(!shown.contains(handle), "{handle} is open in the agent:\n{shown}");
    }
    let token = world.shared.calls()[0].header("authorization").unwrap().to_owned();
    assert!(!shown.contains(token.trim_start_matches("DPoP ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_proof_there_is_no_run() {
    let mut world = crate::fake::World::start().await;
    let out = world.dir.path().join("out");
    let touch = format!(": > {}", out.display());
    assert!(matches!(run_in(&world, &[], &["true"]).await, Err(RunError::NoUpstream)));
    let missing = run_in(&world, &["work"], &["/no/such/program"]).await.unwrap_err();
    assert!(missing.to_string().contains("/no/such/program"), "{missing}");
    world.simulated.power_off();
    assert!(matches!(run_in(&world, &["work"], &["sh", "-c", &touch]).await, Err(RunError::ControlPlane(_))));
    assert!(!out.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_not_there_is_waited_for_and_then_named() {
    let world = crate::fake::World::start().await;
    world.go_away().await;
    let error = run_in(&world, &["work"], &["true"]).await.unwrap_err();
    assert!(matches!(&error, RunError::ControlPlane(error) if error.is_unreachable()), "{error}");
    assert!(error.to_string().contains(&world.config().gateway), "{error}");
    world.come_back().await;
    assert_eq!(run_in(&world, &["work"], &["true"]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_not_there_is_named_and_nothing_starts() {
    let world = crate::fake::World::start().await;
    // A port that was free a moment ago and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let out = world.dir.path().join("out");
    let touch: Vec<OsString> = ["sh", "-c", &format!(": > {}", out.display())].map(OsString::from).into();
    let mut config = config(&world, &["work"]);
    config.session.gateway = format!("https://127.0.0.1:{port}");
    let clock = Arc::new(crate::fake::SharedClock(Arc::clone(&world.shared)));
    let error = run(config, &touch, clock, Arc::new(crate::fake::SystemEntropy)).await.unwrap_err();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert!(!out.exists());
}

#[tokio::test]
async fn patience_is_for_who_is_not_there_and_it_ends() {
    struct Heard(std::sync::Mutex<Vec<String>>);
    impl Notices for Heard {
        fn say(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }
    let gone = || ControlPlaneError::Http(crate::http::HttpError::TimedOut("it".to_owned()));
    let no = || ControlPlaneError::Key("no".to_owned());
    tokio::time::pause();
    let check = async |answers: Vec<Result<(), ControlPlaneError>>, tries: usize, good: bool, said: usize| {
        let heard = Heard(std::sync::Mutex::default());
        let answers = std::sync::Mutex::new(answers.into_iter());
        let tried = std::sync::atomic::AtomicUsize::new(0);
        let answer = patiently(Duration::from_secs(10), &heard, async || {
            tried.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            answers.lock().unwrap().next().unwrap_or_else(|| Err(gone()))
        });
        assert_eq!(answer.await.is_ok(), good);
        assert_eq!(tried.load(std::sync::atomic::Ordering::SeqCst), tries);
        assert_eq!(heard.0.lock().unwrap().len(), said, "the person is told once");
    };
    check(vec![Ok(())], 1, true, 0).await;
    check(vec![Err(gone()), Err(gone()), Ok(())], 3, true, 1).await;
    check(vec![Err(no()), Ok(())], 1, false, 0).await;
    check(vec![Err(gone()), Err(no())], 2, false, 1).await;
    check(vec![], 8, false, 1).await;
}
