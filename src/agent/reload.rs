//! Changes pipelines while everything else goes on: on SIGHUP, and when their files have changed.
//!
//! ```text
//! asked, or files differ ─▶ valid? outputs usable? ─▶ workers pause ─▶ nothing in flight, or
//!          ▲                   │ no: said, nothing changes              5 s have passed
//!          └───────────────────┘                                              │
//!                     workers take up the new pipelines ◀─ old outputs end ◀──┘
//! ```
//!
//! What does not validate is refused and the old pipelines go on. What an output has not answered
//! within [`SETTLE`] is sent again by its successor, under the same ids.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::outputs::Outputs;
use super::{Running, start_source};
use crate::config::agent::PodSource;
use crate::config::{Agent, Loaded, Problems, Stamp};
use crate::enrich;
use crate::pipeline::inbox::Event;
use crate::ship::State;
use crate::telemetry::metrics::{count_reload, show_output_state};
use crate::telemetry::readiness::Condition;

/// For how long what is in flight is waited for.
const SETTLE: Duration = Duration::from_secs(5);

/// Reads the configuration again.
pub type Load = Box<dyn Fn() -> Result<Loaded, Problems> + Send>;

/// What is known of a change, and how far it is.
pub(super) struct Reload {
    load: Load,
    path: PathBuf,
    /// What the files looked like when they were read.
    read: Stamp,
    /// What they looked like when they were looked at last.
    seen: Stamp,
    is_wanted: bool,
    /// The agent ends.
    is_over: bool,
    changing: Option<Changing>,
}

/// Workers pause for these.
struct Changing {
    next: Outputs,
    /// Workers that have something in flight.
    waiting: usize,
    deadline: Instant,
}

impl Reload {
    pub(super) fn new(load: Load, agent: &Agent) -> Self {
        let path = agent.pipelines.clone();
        let read = Stamp::of(&path);
        Self {
            load,
            path,
            seen: read.clone(),
            read,
            is_wanted: false,
            is_over: false,
            changing: None,
        }
    }

    /// The user asks for it.
    pub(super) fn wanted(&mut self) {
        self.is_wanted = true;
    }

    /// The agent ends: nothing is changed any more.
    pub(super) fn never(&mut self) {
        self.abort();
        self.changing = None;
        self.is_over = true;
    }

    /// Outputs that were started for a change are not needed.
    pub(super) fn abort(&self) {
        if let Some(changing) = &self.changing {
            changing.next.abort();
        }
    }

    /// A worker has nothing in flight any more.
    pub(super) fn worker_paused(&mut self) {
        if let Some(changing) = &mut self.changing {
            changing.waiting = changing.waiting.saturating_sub(1);
        }
    }

    /// Waits until the new pipelines can be taken up. Cancel safe.
    pub(super) async fn ready(&self) {
        match &self.changing {
            None => pending().await,
            Some(changing) if changing.waiting == 0 => {}
            Some(changing) => tokio::time::sleep_until(changing.deadline).await,
        }
    }

    /// Whether it is time to read the files: somebody asks for it, or they have changed and are not
    /// being written at the moment.
    fn is_due(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        let now = Stamp::of(&self.path);
        let settled = now == self.seen;
        let changed = now != self.read;
        self.seen = now;
        if self.changing.is_some() || !(self.is_wanted || changed && settled) {
            return false;
        }
        self.is_wanted = false;
        self.read.clone_from(&self.seen);
        true
    }
}

impl Running {
    /// Looks whether pipelines are to be changed, and begins with it.
    pub(super) fn begin_reload(&mut self) {
        if !self.reload.is_due() {
            return;
        }
        match self.read_again() {
            Ok(next) => {
                let deadline = Instant::now() + SETTLE;
                let waiting = self.inboxes.len();
                // What came too late for the change before.
                while self.pauses.try_recv().is_ok() {}
                self.reload.changing = Some(Changing { next, waiting, deadline });
                self.inboxes.iter().for_each(|inbox| inbox.tell(Event::Pause));
            }
            Err(why) => {
                count_reload("refused");
                tracing::error!("the changed pipelines are refused and the old ones go on: {why}");
            }
        }
    }

    /// The outputs of what the files say now, or why they can't be used.
    fn read_again(&self) -> Result<Outputs, String> {
        let loaded = (self.reload.load)().map_err(|problems| problems.to_string())?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        if loaded.agent != *self.agent {
            tracing::warn!("settings of the agent have changed: they take a restart");
        }
        let pipelines: Vec<_> = loaded.pipelines.into_iter().map(Arc::new).collect();
        let before: Vec<_> = (self.outputs.healths())
            .map(|(pipeline, health)| (Arc::clone(pipeline), Arc::clone(health)))
            .collect();
        Outputs::start(&self.agent, &pipelines, &self.inboxes, &before)
            .map_err(|error| format!("{error:#}"))
    }

    /// Has the workers take up the new pipelines.
    pub(super) async fn switch(&mut self) {
        let Some(Changing { next, .. }) = self.reload.changing.take() else { return };
        let before = std::mem::replace(&mut self.outputs, next);
        for (pipeline, _) in before.healths() {
            self.readiness.forget(&Condition::Output(pipeline.name.clone()));
            show_output_state(&pipeline.name, State::NAMES, None);
        }
        // Whatever they still tell comes before the change.
        before.end().await;
        self.follow_namespaces();
        for inbox in &self.inboxes {
            inbox.tell(Event::Pipelines(self.outputs.for_workers()));
        }
        count_reload("done");
        tracing::info!(
            pipelines = super::names(&self.outputs.pipelines),
            "the pipelines were read again"
        );
    }

    /// Asks for namespaces too, if the new pipelines need them and the old ones did not.
    fn follow_namespaces(&mut self) {
        let mut selections = self.outputs.pipelines.iter().map(|pipeline| &pipeline.select);
        let needed = selections.any(|select| enrich::select::needs_namespace_labels(select));
        if !needed
            || self.agent.kubernetes.source == PodSource::None
            || self.pods.needs_namespaces()
        {
            return;
        }
        self.pods.require_namespaces();
        if let Some(task) = self.pods_task.take() {
            task.abort();
        }
        (self.pods_file, self.pods_task) = start_source(&self.agent, &self.pods);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Environment, load};

    #[test]
    fn nothing_is_read_again_once_the_agent_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipelines = dir.path().join("pipelines");
        fs::create_dir(&pipelines).expect("made");
        let text = "pipeline: p\nselect: [{select: {}}]\noutput: {stdout: {}}\n";
        fs::write(pipelines.join("p.yaml"), text).expect("written");
        let settings = dir.path().join("agent.yaml");
        fs::write(&settings, "kubernetes: {source: none}\n").expect("written");
        let environment = || std::iter::empty::<(String, String)>().collect::<Environment>();
        let loaded = load(Some(&settings), Some(&pipelines), &environment());
        let agent = loaded.unwrap_or_else(|problems| panic!("{problems}")).agent;
        let again = pipelines.clone();
        let read = move || load(Some(&settings), Some(&again), &environment());
        let mut reload = Reload::new(Box::new(read), &agent);
        assert!(!reload.is_due());
        reload.wanted();
        assert!(reload.is_due());
        reload.never();
        reload.wanted();
        assert!(!reload.is_due(), "a hangup while what is in flight is waited for");
        fs::write(pipelines.join("q.yaml"), text.replace(": p", ": q")).expect("written");
        assert!(!reload.is_due() && !reload.is_due(), "files that change meanwhile");
    }
}
