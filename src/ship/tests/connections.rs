//! Hosts, credentials and certificates: who is asked, and who we say we are.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::*;

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Peer::start([]).await;
    let to = Some(("location", format!("{}/fluentd/_bulk", other.url)));
    let redirect = Scripted::Answer { status: 307, header: to, body: String::new() };
    let peer = Peer::start([redirect]).await;
    let bench = Bench::new();
    let outcome = bench.ship_one(&elasticsearch(&[&peer.url]), &["1"]).await;
    assert_eq!(documents(&outcome), (1, 0, 0));
    assert!(other.seen().is_empty());
    assert_eq!(peer.seen().len(), 2);
    assert_eq!(bench.count(BulkResult::Unexpected), 1);
}

#[tokio::test]
async fn another_host_is_asked_at_once() {
    let (ill, well) = (Peer::start(vec![status(503); 9]).await, Peer::start([]).await);
    let dead = nobody().await;
    let bench = Bench::new();
    let batches = (0..6).map(|_| bench.batch(&["1"])).collect();
    let outcomes = bench.ship(&elasticsearch(&[&dead, &ill.url, &well.url]), batches).await;
    assert_eq!(outcomes.len(), 6);
    assert_eq!(well.seen().len(), 6);
    assert_eq!(ill.seen().len(), 1, "left out after its first answer");
    assert!(bench.clock.waits().is_empty());
}

/// How long it was left out begins when it was given up, not when it was asked.
#[tokio::test(start_paused = true)]
async fn a_host_that_never_answers_is_left_out() {
    let now = tokio::time::Instant::now;
    let output = elasticsearch(&["http://one:9", "http://two:9"]);
    let mut client = client::Client::new(&output, Timeouts::default(), now(), 0).expect("a client");
    let (wire, mut asked) = mpsc::channel(1);
    client.script(wire);
    let mut unanswered = Vec::new();
    let host = async {
        unanswered.push(asked.recv().await.expect("a request"));
        while let Some(scripted::Asked { answer, .. }) = asked.recv().await {
            let said =
                scripted::Said::Reply { status: 200, retry_after: None, body: String::new() };
            answer.send(said).expect("it waits");
        }
    };
    let body = Body::new(b"{}".to_vec(), false);
    let ask = async {
        let mut hosts = Vec::new();
        for _ in 0..3 {
            let exchange = client.bulk(&body, 1, now()).await;
            hosts.push((exchange.host, exchange.result.is_ok()));
        }
        drop(client);
        hosts
    };
    let (hosts, ()) = tokio::join!(ask, host);
    let host = |name: &str, answers| (format!("{name}:9"), answers);
    assert_eq!(hosts, [host("one", false), host("two", true), host("two", true)]);
}

#[tokio::test]
async fn healthy_hosts_take_turns() {
    let (one, two) = (Peer::start([]).await, Peer::start([]).await);
    let bench = Bench::new();
    let batches = (0..8).map(|_| bench.batch(&["1"])).collect();
    bench.ship(&elasticsearch(&[&one.url, &two.url]), batches).await;
    assert!(one.seen().len() >= 3 && two.seen().len() >= 3);
}

#[tokio::test]
async fn a_secret_that_changes_is_read_again() {
    let bench = Bench::new();
    let path = bench.state.path().join("password");
    fs::write(&path, "old\n").expect("write");
    // From `printf elastic:old | base64` and `printf elastic:new | base64`.
    let (old, new) = ("Basic ZWxhc3RpYzpvbGQ=", "Basic ZWxhc3RpYzpuZXc=");
    let peer = Peer::start([Scripted::Commit, Scripted::Demand(new)]).await;
    let password = Secret::File(path.clone());
    let auth = Auth::Basic { user: "elastic".into(), password };
    let output = Elasticsearch { auth, ..elasticsearch(&[&peer.url]) };
    let ship = bench.ship(&output, vec![bench.batch(&["1"]), bench.batch(&["1"])]);
    let change = async {
        while peer.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        fs::write(&path, "new\n").expect("write");
    };
    let (outcomes, ()) = within(async { tokio::join!(ship, change) }).await;
    assert_eq!(documents(&outcomes[1]), (0, 1, 0));
    let sent: Vec<String> = (peer.seen().iter())
        .map(|seen| seen.headers["authorization"].to_str().expect("text").to_owned())
        .collect();
    // Within a second only the 401 makes it look at the file again.
    assert_eq!(sent, [old, old, new]);
    assert_eq!(bench.count(BulkResult::Unauthorized), 1);
}

#[tokio::test]
async fn an_api_key_is_sent_and_a_missing_file_is_waited_for() {
    let bench = Bench::new();
    let path = bench.state.path().join("key");
    let peer = Peer::start([]).await;
    let auth = Auth::ApiKey(Secret::File(path.clone()));
    let output = Elasticsearch { auth, ..elasticsearch(&[&peer.url]) };
    let ship = bench.ship_one(&output, &["1"]);
    let appear = async {
        while bench.clock.waits().len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.health.state(), State::Paused(Cause::Credentials));
        assert!(!bench.health.has_answered());
        fs::write(&path, "a2V5").expect("write");
    };
    let (outcome, ()) = within(async { tokio::join!(ship, appear) }).await;
    assert_eq!(documents(&outcome), (1, 0, 0));
    assert_eq!(peer.seen()[0].headers["authorization"], "ApiKey a2V5");
}

async fn check_probe(probes: &[(&str, u16)], answered: bool, cause: Option<Cause>) {
    let peer = Peer::start([]).await;
    for (path, status) in probes {
        peer.answer_probe(path, *status);
    }
    let bench = Bench::new();
    let health = Arc::clone(&bench.health);
    let hosts = elasticsearch(&[&peer.url]);
    let output =
        crate::ship::output("flink".into(), &hosts, bench.state.path(), health, bench.given())
            .expect("an output");
    tokio::select! {
        () = output.probe(0) => {}
        () = async {
            while bench.clock.waits().is_empty() {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert_eq!(bench.health.has_answered(), answered, "{probes:?}");
    assert_eq!(bench.health.state().cause(), cause, "{probes:?}");
}

#[tokio::test]
async fn readiness_needs_no_traffic() {
    check_probe(&[], true, None).await;
    check_probe(&[("/", 404)], true, None).await;
    check_probe(&[("/", 401)], false, Some(Cause::Unauthorized)).await;
    let who = "/_security/_authenticate";
    check_probe(&[("/", 403)], true, None).await;
    check_probe(&[("/", 403), (who, 403)], false, Some(Cause::Forbidden)).await;
    check_probe(&[("/", 503)], false, Some(Cause::Unavailable)).await;
    check_probe(&[("/", 302)], false, Some(Cause::Redirect)).await;
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// A server with the certificate `name`, and whether it asks for one of the client's.
fn acceptor(name: &str, asks: bool) -> TlsAcceptor {
    let load = |name: &str| CertificateDer::from_pem_file(fixture(name)).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = if asks {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(load("ca.crt")).expect("a root");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(fixture(&format!("{name}.key"))).expect("a key");
    let chain = vec![load(&format!("{name}.crt"))];
    TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("a pair")))
}

/// Whether a batch gets through; if not, the connection fails and nothing is sent.
async fn check_tls(server: &str, asks: bool, tls: Tls, works: bool) {
    let said = format!("{server} {tls:?}");
    let peer = Peer::start_tls(acceptor(server, asks)).await;
    let bench = Bench::new();
    let output = Elasticsearch { tls, ..elasticsearch(&[&peer.url]) };
    tokio::select! {
        outcome = bench.ship_one(&output, &["1"]) => {
            assert_eq!(documents(&outcome), (1, 0, 0), "{said}");
        }
        () = async {
            while bench.clock.waits().is_empty() {
                tokio::task::yield_now().await;
            }
        } => assert_eq!(bench.health.state(), State::Retrying(Cause::Connect), "{said}"),
    }
    assert_eq!(!peer.seen().is_empty(), works, "{said}");
}

#[tokio::test]
async fn certificates_are_checked_as_the_user_says() {
    let tls = |verify, ca: Option<&str>| Tls { verify, ca: ca.map(fixture), client: None };
    check_tls("loopback", false, tls(Verify::Full, Some("ca.crt")), true).await;
    check_tls("elsewhere", false, tls(Verify::Full, Some("ca.crt")), false).await;
    check_tls("elsewhere", false, tls(Verify::Certificate, Some("ca.crt")), true).await;
    check_tls("loopback", false, tls(Verify::Full, Some("other-ca.crt")), false).await;
    check_tls("loopback", false, tls(Verify::Certificate, Some("other-ca.crt")), false).await;
    check_tls("loopback", false, tls(Verify::Full, None), false).await;
    check_tls("elsewhere", false, tls(Verify::None, None), true).await;
    let client = Some((fixture("agent.crt"), fixture("agent.key")));
    let with_client = Tls { client, ..tls(Verify::Full, Some("ca.crt")) };
    check_tls("loopback", true, with_client, true).await;
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_taken_into_use() {
    let peer = Peer::start_tls(acceptor("loopback", false)).await;
    let bench = Bench::new();
    let ca = bench.state.path().join("ca.crt");
    fs::copy(fixture("other-ca.crt"), &ca).expect("copy");
    let tls = Tls { verify: Verify::Full, ca: Some(ca.clone()), client: None };
    let output = Elasticsearch { tls, ..elasticsearch(&[&peer.url]) };
    let ship = bench.ship_one(&output, &["1"]);
    let replace = async {
        while bench.clock.waits().is_empty() {
            tokio::task::yield_now().await;
        }
        fs::copy(fixture("ca.crt"), &ca).expect("copy");
    };
    let (outcome, ()) = within(async { tokio::join!(ship, replace) }).await;
    assert_eq!(documents(&outcome), (1, 0, 0));
}

#[test]
fn what_cannot_work_is_said_at_the_start() {
    let bench = Bench::new();
    let try_output = |elasticsearch: &Elasticsearch| {
        let health = Arc::clone(&bench.health);
        crate::ship::output(
            "flink".into(),
            elasticsearch,
            bench.state.path(),
            health,
            bench.given(),
        )
        .map(|_| ())
        .expect_err("it cannot work")
        .to_string()
    };
    let missing = bench.state.path().join("ca.crt");
    let empty = bench.state.path().join("empty.crt");
    fs::write(&empty, "no certificate").expect("write");
    let with_ca = |ca: PathBuf| Elasticsearch {
        tls: Tls { verify: Verify::Full, ca: Some(ca), client: None },
        ..elasticsearch(&["https://localhost:9200"])
    };
    assert_eq!(try_output(&with_ca(missing.clone())), format!("cannot read {}", missing.display()));
    let expected = format!("{} holds no PEM certificate", empty.display());
    assert_eq!(try_output(&with_ca(empty)), expected);
    let expected = "\"localhost\" is not a URL like https://host:9200";
    assert_eq!(try_output(&elasticsearch(&["localhost"])), expected);
}
