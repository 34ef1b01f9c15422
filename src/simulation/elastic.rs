//! One index of an Elasticsearch with `create` semantics, and everything it does to whoever asks.
//!
//! Owns what it holds, what it refused for good, and how it behaves, decided by its own random
//! numbers. Notes what must never be asked of it. A request lives on when its client is gone: it
//! may arrive late, or not at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::sleep;

use super::random::Random;
use crate::ship::scripted::{Asked, Said, Wire};

/// How it behaves until told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    Fine,
    /// Any of the others, anew for each request.
    Changing,
    /// 429 for the whole request, with `Retry-After` or without.
    Busy,
    /// 429 and 503 for some items.
    Scattered,
    Unavailable,
    NoConnection,
    /// Never answers; has committed or not.
    Silent,
    /// Commits, and the connection ends before the answer.
    Tearing,
    /// Commits, and the answer is no answer.
    Garbled,
    /// 413 above some size.
    Small,
    /// 400 for a request that has a document that it does not like.
    Strict,
    Unauthorized,
    /// A block that somebody lifts.
    Blocked,
    Closed,
}

const ALL: [Weather; 14] = [
    Weather::Fine,
    Weather::Changing,
    Weather::Busy,
    Weather::Scattered,
    Weather::Unavailable,
    Weather::NoConnection,
    Weather::Silent,
    Weather::Tearing,
    Weather::Garbled,
    Weather::Small,
    Weather::Strict,
    Weather::Unauthorized,
    Weather::Blocked,
    Weather::Closed,
];

impl Weather {
    pub(super) const ALL: [Self; 14] = ALL;
}

/// Above how many bytes a request is too large for [`Weather::Small`].
const SMALL_BYTES: usize = 1500;

/// A document as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) lines: Vec<String>,
    /// The pod's UID.
    pub(super) pod: String,
    pub(super) lane: String,
    pub(super) plain_form: bool,
}

impl Document {
    /// Reads a document, in whatever form.
    pub(super) fn read(text: &str) -> Self {
        let whole: Value = serde_json::from_str(text).expect("a document is JSON");
        let plain_form = whole["splashdam"]["original"].is_string();
        let value = match whole["splashdam"]["original"].as_str() {
            Some(original) => serde_json::from_str(original).expect("the original is JSON"),
            None => whole,
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            lines: text(&value["message"]).split('\n').map(str::to_owned).collect(),
            pod: text(&value["kubernetes"]["pod_id"]),
            lane: text(&value["stream"]),
            plain_form,
        }
    }

    fn says(&self, word: &str) -> bool {
        self.lines.iter().any(|line| line.starts_with(word))
    }
}

#[derive(Debug)]
struct Index {
    documents: BTreeMap<String, Document>,
    /// What it refused in a way that may be for good.
    refused: BTreeMap<String, Document>,
    /// What an ingest pipeline dropped.
    vanished: BTreeMap<String, Document>,
    weather: Weather,
    random: Random,
    wrong: Vec<String>,
    requests: u64,
    /// Documents that were there already.
    conflicts: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Elastic(Arc<Mutex<Index>>);

impl Elastic {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Index {
            documents: BTreeMap::new(),
            refused: BTreeMap::new(),
            vanished: BTreeMap::new(),
            weather: Weather::Fine,
            random: Random::new(seed),
            wrong: Vec::new(),
            requests: 0,
            conflicts: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().expect("no check fails with the lock held")
    }

    /// A new way to it.
    pub(super) fn connect(&self) -> Wire {
        let (wire, asked) = mpsc::channel(16);
        tokio::spawn(self.clone().serve(asked));
        wire
    }

    pub(super) fn set(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Requests, and documents that were there already.
    pub(super) fn counts(&self) -> [u64; 2] {
        let index = self.lock();
        [index.requests, index.conflicts]
    }

    pub(super) fn documents(&self) -> BTreeMap<String, Document> {
        self.lock().documents.clone()
    }

    pub(super) fn refused(&self) -> BTreeMap<String, Document> {
        self.lock().refused.clone()
    }

    pub(super) fn has_refused(&self) -> bool {
        !self.lock().refused.is_empty()
    }

    pub(super) fn vanished(&self) -> BTreeMap<String, Document> {
        self.lock().vanished.clone()
    }

    /// What must never have been asked of it.
    pub(super) fn wrong(&self) -> Vec<String> {
        self.lock().wrong.clone()
    }

    async fn serve(self, mut asked: Receiver<Asked>) {
        while let Some(request) = asked.recv().await {
            tokio::spawn(self.clone().answer(request));
        }
    }

    /// One request: the way there, what is done, the way back.
    async fn answer(self, Asked { body, answer }: Asked) {
        let (there, back, arrives) = self.lock().ways();
        sleep(there).await;
        if answer.is_closed() && !arrives {
            return;
        }
        let said = self.lock().act(body.as_deref());
        sleep(back).await;
        match said {
            Does::Say(said) => drop(answer.send(said)),
            Does::End => drop(answer),
            Does::Nothing => {
                sleep(Duration::from_secs(3600)).await;
                drop(answer);
            }
        }
    }
}

/// How a request ends.
enum Does {
    Say(Said),
    End,
    Nothing,
}

fn reply(status: u16, body: impl ToString) -> Does {
    Does::Say(Said::Reply { status, retry_after: None, body: body.to_string() })
}

fn error(status: u16, kind: &str, reason: &str) -> Does {
    reply(status, json!({"error": {"type": kind, "reason": reason}, "status": status}))
}

fn item(status: u16, kind: &str, reason: &str) -> Value {
    json!({"create": {"status": status, "error": {"type": kind, "reason": reason}}})
}

const CLOSED: (u16, &str, &str) = (400, "index_closed_exception", "closed");
const BLOCKED: (u16, &str, &str) = (
    403,
    "cluster_block_exception",
    "index [i] blocked by: [FORBIDDEN/12/index read-only / allow delete (api)];",
);

impl Index {
    fn ways(&mut self) -> (Duration, Duration, bool) {
        let slow = self.random.one_in(20);
        let most = if slow { 20_000 } else { 60 };
        let mut way = || Duration::from_millis(1 + self.random.below(most));
        let (there, back) = (way(), way());
        (there, back, self.random.one_in(2))
    }

    fn weather_now(&mut self) -> Weather {
        let mut weather = self.weather;
        while weather == Weather::Changing {
            weather = Weather::ALL[self.random.index(Weather::ALL.len())];
        }
        weather
    }

    fn act(&mut self, body: Option<&[u8]>) -> Does {
        let weather = self.weather_now();
        let Some(body) = body else { return probed(weather) };
        self.requests += 1;
        let text = std::str::from_utf8(body).expect("UTF-8");
        let mut lines = text.lines();
        let mut entries = Vec::new();
        while let (Some(action), Some(document)) = (lines.next(), lines.next()) {
            let action: Value = serde_json::from_str(action).expect("an action is JSON");
            let id = action["create"]["_id"].as_str().expect("an id").to_owned();
            entries.push((id, Document::read(document)));
        }
        match weather {
            Weather::Fine | Weather::Changing | Weather::Scattered => self.commit(entries, weather),
            Weather::Busy => {
                let after =
                    self.random.one_in(2).then(|| Duration::from_secs(self.random.below(90)));
                Does::Say(Said::Reply { status: 429, retry_after: after, body: String::new() })
            }
            Weather::Unavailable => match self.random.below(3) {
                0 => error(503, "cluster_block_exception", "blocked by: [SERVICE_UNAVAILABLE/1/x]"),
                1 => reply(502, "<html>"),
                _ => reply(500, ""),
            },
            Weather::NoConnection => Does::Say(Said::NoConnection),
            Weather::Silent => {
                if self.random.one_in(2) {
                    self.commit(entries, Weather::Fine);
                }
                Does::Nothing
            }
            Weather::Tearing => {
                self.commit(entries, Weather::Fine);
                Does::End
            }
            Weather::Garbled => self.garble(entries),
            Weather::Small if body.len() > SMALL_BYTES => self.too_large(entries),
            Weather::Strict if entries.len() > 1 && entries.iter().any(|(_, d)| is_bad(d)) => {
                error(400, "parse_exception", "x")
            }
            Weather::Small | Weather::Strict => self.commit(entries, Weather::Fine),
            Weather::Unauthorized => match self.random.one_in(2) {
                true => reply(401, ""),
                false => error(403, "security_exception", "no"),
            },
            Weather::Blocked => self.refuse_all(&entries, BLOCKED),
            Weather::Closed => {
                self.refused.extend(entries.iter().cloned());
                self.refuse_all(&entries, CLOSED)
            }
        }
    }

    fn too_large(&mut self, entries: Vec<(String, Document)>) -> Does {
        if entries.len() == 1 {
            self.refused.extend(entries);
        }
        reply(413, "")
    }

    fn refuse_all(
        &mut self,
        entries: &[(String, Document)],
        (status, kind, reason): (u16, &str, &str),
    ) -> Does {
        if self.random.one_in(2) {
            return error(status, kind, reason);
        }
        let items: Vec<Value> = entries.iter().map(|_| item(status, kind, reason)).collect();
        reply(200, json!({"errors": true, "items": items}))
    }

    fn garble(&mut self, entries: Vec<(String, Document)>) -> Does {
        let Does::Say(Said::Reply { mut body, .. }) = self.commit(entries, Weather::Fine) else {
            unreachable!("a commit is answered");
        };
        match self.random.below(3) {
            0 => body.truncate(body.len() / 2),
            1 => body = r#"{"errors":false,"items":[]}"#.to_owned(),
            _ => body = body.replacen("[{", r#"[{"create":{"status":201}},{"#, 1),
        }
        reply(200, body)
    }

    fn commit(&mut self, entries: Vec<(String, Document)>, weather: Weather) -> Does {
        let items: Vec<Value> = (entries.into_iter())
            .map(|(id, document)| match weather {
                Weather::Scattered if self.random.one_in(3) => {
                    let status = if self.random.one_in(2) { 429 } else { 503 };
                    item(status, "es_rejected_execution_exception", "busy")
                }
                _ => self.create(id, document),
            })
            .collect();
        let errors = items.iter().any(|item| item["create"]["error"].is_object());
        // The same spelling as Elasticsearch: `errors` comes first.
        let items: Vec<String> = items.iter().map(Value::to_string).collect();
        reply(200, format!(r#"{{"errors":{errors},"items":[{}]}}"#, items.join(",")))
    }

    fn create(&mut self, id: String, document: Document) -> Value {
        let bad = if document.plain_form { document.says("venom") } else { is_bad(&document) };
        if bad {
            self.refused.insert(id, document);
            return item(400, "document_parsing_exception", "x");
        }
        if document.says("vanish") {
            self.vanished.insert(id, document);
            return json!({"create": {"status": 200}});
        }
        match self.documents.get(&id) {
            Some(there) => {
                self.conflicts += 1;
                let same = there.lines == document.lines && there.pod == document.pod;
                if !same {
                    self.wrong.push(format!("{id}: {there:?} and {document:?}"));
                }
                item(409, "version_conflict_engine_exception", "x")
            }
            None => {
                self.documents.insert(id, document);
                json!({"create": {"status": 201}})
            }
        }
    }
}

/// Whether a document is refused unless it is in its plain form.
fn is_bad(document: &Document) -> bool {
    document.says("poison") || document.says("venom")
}

fn probed(weather: Weather) -> Does {
    match weather {
        Weather::NoConnection => Does::Say(Said::NoConnection),
        Weather::Silent => Does::Nothing,
        Weather::Tearing => Does::End,
        Weather::Unavailable => reply(503, ""),
        Weather::Unauthorized => reply(401, ""),
        _ => reply(200, "{}"),
    }
}
