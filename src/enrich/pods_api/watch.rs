//! Follows one kind of object: a list where one is needed, and watches after it for ever.
//!
//! The first list is streamed object by object (`sendInitialEvents`, on by default in Kubernetes
//! 1.32, off in 1.33, on again from 1.34); a server that refuses that, or doesn't come to its end, is
//! asked for a plain list. Both are served from the API server's cache (resource version 0), but for
//! a list in pages. A watch that is over is resumed where it was, by the last object or bookmark,
//! also with another client; only a version that can't be resumed from, or the way to another
//! cluster, brings a new list. Each object is trimmed to its facts as it comes; one that can't be
//! understood is left out.
//!
//! Guarantees that a watch resumes at once only after one that lasted [`SETTLED`]. Whatever else
//! happens (an error, a list that breaks off, a watch that ends as soon as it began, a request
//! without an answer for [`ANSWER`], silence) puts the store out of sync, is said once a minute and
//! followed by a pause: [`SHORTEST_PAUSE`] to [`LONGEST_PAUSE`] with as much jitter again, longer
//! each time until a watch has lasted [`SETTLED`]. Nothing ends it.
//!
//! What kube's own watcher leaves open and this one decides: it resumes a watch at once however
//! short it was, waits for an answer as long as for events, and goes on with the client it has.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt;
use kube::api::{ListParams, VersionMatch, WatchEvent, WatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, warn};

use super::link::Link;
use super::page::{Page, known};
use super::trouble::{Begin, Phase, Trouble, Wait, is_behind, is_unreadable};
use crate::enrich::state::Event;
use crate::telemetry::throttle;

/// The first pause after trouble.
pub(super) const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between attempts, before jitter.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause, before jitter, where the API server doesn't have a kind that need not be there.
pub(super) const ABSENT_PAUSE: Duration = Duration::from_secs(300);
/// A watch that brought no trouble for this long is taken to have succeeded: a quiet node's says
/// nothing when it resumes.
pub(super) const SETTLED: Duration = Duration::from_secs(10);
/// A watch that isn't answered by then has failed. The API server sends the headers before the
/// first event; before that it may keep the request in a queue for 15 s and wait 3 s for its cache.
/// Source: kubernetes/kubernetes `apiserver/pkg/endpoints/handlers/watch.go`,
/// `server/config.go` (`RequestTimeout/4`), `storage/cacher/watch_cache.go` (`blockTimeout`).
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// A streamed list, or a page of a plain one, that isn't complete by then has failed: the API server
/// ends requests, those that are no watches, after 60 s.
pub(super) const LIST_TIME: Duration = Duration::from_secs(70);
/// How long one watch request lasts, in seconds; agents differ within this range, so that a
/// restart of the API server doesn't align them for ever.
pub(super) const WATCH_SECONDS: std::ops::Range<u32> = 230..290;
/// A watch that has said nothing for so long after it should have ended is taken as dead.
const OVERDUE: Duration = Duration::from_secs(5);
/// A watch that has had a bookmark gets another every minute; one that gets none for so long is dead.
/// Before the first, silence means nothing: a bookmark is passed over unless something of the kind has
/// changed since the watch began, or the store says how far it has come, which it may never do.
/// Source: kubernetes/kubernetes `apiserver/pkg/storage/cacher` (`defaultBookmarkFrequency`,
/// `cacheWatcher.process`).
pub(super) const MARKLESS: Duration = Duration::from_secs(150);
/// What no object is called.
const NOBODY: &str = "metadata.name=nobody";

/// What the end of a streamed list is marked with.
const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Query {
    /// The resource's plural, for messages.
    pub(super) what: &'static str,
    /// The API server need not have the kind.
    pub(super) optional: bool,
    pub(super) fields: Option<String>,
    /// Objects in a page of a plain list; all in one if there is none.
    pub(super) page: Option<u32>,
    /// How long a watch lasts.
    pub(super) seconds: u32,
}

/// One kind of object that is followed.
pub(super) struct Watch {
    link: Link,
    query: Query,
    /// The version to resume from; none before a list is complete.
    version: Option<String>,
    /// The next list is a plain one.
    plain: bool,
    /// Nothing has proven since the last trouble that the API server is reached.
    lost: bool,
    /// The pauses still to come; there from trouble until a watch has lasted.
    pauses: Option<ExponentialBackoff>,
}

/// How an attempt went, while it goes.
struct Course {
    phase: Phase,
    /// When a watch began to tell what is new.
    since: Option<Instant>,
    /// It has told a bookmark.
    marked: bool,
}

impl Watch {
    pub(super) fn new(link: Link, query: Query) -> Self {
        Self { link, query, version: None, plain: false, lost: false, pauses: None }
    }

    /// Hands each event to `apply`, objects trimmed by `trim`; one that can't be told from others
    /// is left out. Never ends.
    pub(super) async fn follow<K, T>(mut self, trim: fn(&K) -> Option<T>, apply: impl Fn(Event<T>))
    where
        K: Resource + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        loop {
            let mut course = Course { phase: self.phase(), since: None, marked: false };
            let end = self.attempt(&mut course, trim, &apply).await;
            let lasted = course.since.is_some_and(|since| since.elapsed() >= SETTLED);
            if lasted {
                self.pauses = None;
            }
            match end {
                Ok(()) if lasted => {}
                Ok(()) => self.recover(&Trouble::Ended, course.phase, &apply).await,
                Err(trouble) => self.recover(&trouble, course.phase, &apply).await,
            }
        }
    }

    /// What the next attempt begins with.
    fn phase(&self) -> Phase {
        match (&self.version, self.plain) {
            (Some(_), _) => Phase::Watch,
            (None, true) => Phase::PlainList,
            (None, false) => Phase::StreamedList,
        }
    }

    /// One list, where one is needed, and one watch, until the server ends it.
    async fn attempt<K, T>(
        &mut self,
        course: &mut Course,
        trim: fn(&K) -> Option<T>,
        apply: &impl Fn(Event<T>),
    ) -> Result<(), Trouble>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        if course.phase == Phase::PlainList {
            self.version = Some(self.list(trim, apply).await?);
            (self.plain, self.lost) = (false, false);
            course.phase = Phase::Watch;
        }
        let complete_by = Instant::now() + LIST_TIME;
        let (api, params) = (Api::<K>::all(self.link.client()), self.watch_params(course.phase));
        let answer = timeout(ANSWER, api.watch(&params, self.version.as_deref().unwrap_or("0")));
        let events = answer.await.map_err(|_| Trouble::NoAnswer(ANSWER))?;
        let mut events = pin!(events.map_err(Trouble::Request)?);
        match course.phase {
            Phase::Watch => course.since = Some(Instant::now()),
            Phase::StreamedList | Phase::PlainList => apply(Event::Init),
        }
        loop {
            let wait = self.wait(course);
            let until = wait.map_or(complete_by, |wait| Instant::now() + wait);
            match (timeout_at(until, events.next()).await, wait) {
                (Ok(Some(Ok(event))), _) => self.take(event, course, trim, apply)?,
                (Ok(Some(Err(error))), _) if is_unreadable(&error) => self.leave_out(error),
                (Ok(Some(Err(error))), _) => return Err(Trouble::Events(error)),
                (Ok(None), _) => return Ok(()),
                (Err(_), None) => return Err(Trouble::Unfinished(LIST_TIME)),
                (Err(_), Some(_)) if self.lost => {
                    Box::pin(self.ask_how_far::<K>()).await?;
                    self.found(apply);
                }
                (Err(_), Some(wait)) => return Err(Trouble::Silence(wait)),
            }
        }
    }

    /// How long a watch may be silent; a list has to come to its end.
    fn wait(&self, course: &Course) -> Option<Duration> {
        match course.phase {
            Phase::StreamedList | Phase::PlainList => None,
            // Silence until then is a good sign, if the server has come so far.
            Phase::Watch if self.lost => Some(SETTLED),
            Phase::Watch if course.marked => Some(MARKLESS),
            Phase::Watch => Some(Duration::from_secs(self.query.seconds.into()) + OVERDUE),
        }
    }

    /// Makes sure that the API server has come to where the watch is. It would take a version of its
    /// future, and say nothing until it is there; of a list, also of nothing, it says that it can't.
    async fn ask_how_far<K>(&self) -> Result<(), Trouble>
    where
        K: Resource<DynamicType: Default> + DeserializeOwned,
    {
        let fields = self.query.fields.iter().map(String::as_str).chain([NOBODY]);
        let params = ListParams {
            field_selector: Some(fields.collect::<Vec<_>>().join(",")),
            limit: None,
            resource_version: self.version.clone(),
            ..self.list_params()
        };
        let answer = timeout(ANSWER, Page::<K>::get(self.link.client(), &params)).await;
        match answer.map_err(|_| Trouble::NoAnswer(ANSWER))? {
            Ok(_) => Ok(()),
            Err(error) if is_behind(&error) => Err(Trouble::Behind),
            Err(error) => Err(Trouble::Request(error)),
        }
    }

    fn take<K: ResourceExt, T>(
        &mut self,
        event: WatchEvent<K>,
        course: &mut Course,
        trim: fn(&K) -> Option<T>,
        apply: &impl Fn(Event<T>),
    ) -> Result<(), Trouble> {
        let lists = course.phase == Phase::StreamedList;
        let (object, make): (K, fn(T) -> Event<T>) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) if lists => {
                (object, Event::Found)
            }
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, Event::Changed),
            WatchEvent::Deleted(object) => (object, Event::Deleted),
            WatchEvent::Bookmark(mark) if lists => {
                if mark.metadata.annotations.contains_key(LIST_ENDS) {
                    let version = known(mark.metadata.resource_version);
                    self.version = Some(version.ok_or(Trouble::NoVersion)?);
                    self.lost = false;
                    course.phase = Phase::Watch;
                    course.since = Some(Instant::now());
                    apply(Event::InitDone);
                }
                return Ok(());
            }
            WatchEvent::Bookmark(mark) => {
                course.marked = true;
                self.pass(Some(mark.metadata.resource_version), apply);
                return Ok(());
            }
            WatchEvent::Error(status) => return Err(Trouble::Events(kube::Error::Api(status))),
        };
        if !lists {
            self.pass(object.resource_version(), apply);
        }
        if let Some(facts) = trim(&object) {
            apply(make(facts));
        }
        Ok(())
    }

    /// A watch has come to `version`.
    fn pass<T>(&mut self, version: Option<String>, apply: &impl Fn(Event<T>)) {
        if let Some(version) = version.and_then(known) {
            self.version = Some(version);
        }
        self.found(apply);
    }

    /// A plain list, in pages if that is asked for; its version.
    async fn list<K, T>(
        &mut self,
        trim: fn(&K) -> Option<T>,
        apply: &impl Fn(Event<T>),
    ) -> Result<String, Trouble>
    where
        K: Resource + DeserializeOwned,
        K::DynamicType: Default,
    {
        let mut params = self.list_params();
        let mut begun = false;
        loop {
            let page = timeout(LIST_TIME, Page::<K>::get(self.link.client(), &params)).await;
            let page = page.map_err(|_| Trouble::NoAnswer(LIST_TIME))?;
            let page = page.map_err(Trouble::Request)?;
            if !begun {
                apply(Event::Init);
                begun = true;
            }
            for item in page.items {
                match item {
                    Ok(object) => trim(&object).into_iter().map(Event::Found).for_each(apply),
                    Err(error) => self.leave_out(error),
                }
            }
            if page.next.is_none() {
                let version = page.version.ok_or(Trouble::NoVersion)?;
                apply(Event::InitDone);
                return Ok(version);
            }
            let this = std::mem::replace(&mut params.continue_token, page.next);
            if params.continue_token == this {
                return Err(Trouble::SamePage);
            }
        }
    }

    /// The API server is reached, and nothing was missed.
    fn found<T>(&mut self, apply: &impl Fn(Event<T>)) {
        if std::mem::take(&mut self.lost) {
            debug!(watch = self.query.what, "the API server is reached again");
            apply(Event::InSync);
        }
    }

    /// Does what has to be done about `trouble`; afterwards the next attempt may begin.
    async fn recover<T>(&mut self, trouble: &Trouble, phase: Phase, apply: &impl Fn(Event<T>)) {
        let what = self.query.what;
        let remedy = trouble.remedy(phase, self.query.optional);
        match remedy.begin {
            Begin::Resume => {}
            Begin::Anew => self.version = None,
            Begin::Plain => (self.version, self.plain) = (None, true),
        }
        if remedy.wait != Wait::No {
            self.lost = true;
            apply(Event::OutOfSync);
        }
        match remedy.wait {
            Wait::No => {
                debug!(watch = what, error = trouble.text(), "asking for a plain list");
            }
            Wait::Absent => {
                debug!(watch = what, "the API server doesn't have this kind");
                sleep(absent_pause()).await;
            }
            Wait::Pause => {
                self.complain(trouble);
                let pauses = self.pauses.get_or_insert_with(backoff);
                sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
            }
        }
        if remedy.renew {
            self.renew().await;
        }
    }

    async fn renew(&mut self) {
        match self.link.renew().await {
            // Versions mean nothing in another cluster.
            Ok(true) => self.version = None,
            Ok(false) => {}
            Err(error) => {
                if let Some(suppressed) = throttle::allow("way to the API server") {
                    warn!(
                        suppressed,
                        error, "the way to the API server can't be read again, using what was read"
                    );
                }
            }
        }
    }

    fn complain(&self, trouble: &Trouble) {
        let what = self.query.what;
        let Some(suppressed) = throttle::allow(&format!("watch of {what}: {}", trouble.cause()))
        else {
            return;
        };
        let missing = if trouble.is_forbidden() {
            "; the agent's service account needs list and watch on them"
        } else {
            ""
        };
        let error = trouble.text();
        warn!(suppressed, error, "watching {what} failed, trying again{missing}");
    }

    fn leave_out(&self, error: kube::Error) {
        let what = self.query.what;
        if let Some(suppressed) = throttle::allow(&format!("one of the {what}")) {
            let error = Trouble::Events(error).text();
            warn!(suppressed, error, "one of the {what} can't be understood and is left out");
        }
    }

    fn watch_params(&self, phase: Phase) -> WatchParams {
        WatchParams {
            field_selector: self.query.fields.clone(),
            timeout: Some(self.query.seconds),
            bookmarks: true,
            send_initial_events: phase == Phase::StreamedList,
            ..WatchParams::default()
        }
    }

    fn list_params(&self) -> ListParams {
        ListParams {
            field_selector: self.query.fields.clone(),
            limit: self.query.page,
            resource_version: Some("0".to_owned()),
            version_match: Some(VersionMatch::NotOlderThan),
            ..ListParams::default()
        }
    }
}

pub(super) fn backoff() -> ExponentialBackoff {
    pauses(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// [`ABSENT_PAUSE`] with as much jitter again at most.
pub(super) fn absent_pause() -> Duration {
    pauses(ABSENT_PAUSE, ABSENT_PAUSE).next().unwrap_or(ABSENT_PAUSE)
}

/// From the shortest to the longest, each with as much jitter again at most; they never end.
fn pauses(shortest: Duration, longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(shortest)
        .with_max_delay(longest)
        .without_max_times()
        .with_jitter()
        .build()
}
