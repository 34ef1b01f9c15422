//! What goes wrong with a watch, how it is said, and what is to be done then. Pure.
//!
//! Guarantees that nothing which may come again at once is tried again without a pause.

use std::error::Error as _;
use std::time::Duration;

use kube::core::Status;
use thiserror::Error;

/// How far an attempt had come: a list, if one is needed, and a watch after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A list as events of the watch, asked for or under way.
    StreamedList,
    PlainList,
    /// What is listed is known; a watch from there on is asked for or under way.
    Watch,
}

/// Why an attempt is over.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    #[error("the request failed: {0}")]
    Request(#[source] kube::Error),
    #[error("the watch broke off: {0}")]
    Events(#[source] kube::Error),
    #[error("no answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// Of a list that is streamed.
    #[error("the list was not complete after {} s", .0.as_secs())]
    Unfinished(Duration),
    #[error("nothing came for {} s", .0.as_secs())]
    Silence(Duration),
    /// Without an error, but too soon to be asked again at once.
    #[error("the API server ended it at once")]
    Ended,
    /// Its store was set back: a watch would be silent until it has come there again.
    #[error("the API server has not come to where the watch was")]
    Behind,
    #[error("the list has no resource version")]
    NoVersion,
    #[error("the list goes on with the page that it went on with before")]
    SamePage,
}

/// How long to wait before the next attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Not at all: what comes next is something else.
    No,
    /// Longer each time.
    Pause,
    /// The API server doesn't have the kind.
    Absent,
}

/// What the next attempt begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// With a watch from where this one was, or a list if there was none.
    Resume,
    /// With a list.
    Anew,
    /// With a list that isn't streamed; the one after it may be again.
    Plain,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remedy {
    pub(super) wait: Wait,
    pub(super) begin: Begin,
    /// With a client of what the files say by then: address, authority or credentials may have
    /// been replaced. Not for the API server's own answers, for which a connection stands.
    pub(super) renew: bool,
}

impl Trouble {
    /// What is to be done after an attempt for a kind that need not be there if it is `optional`.
    pub(super) fn remedy(&self, phase: Phase, optional: bool) -> Remedy {
        let code = self.status().map(|status| status.code);
        let in_events = matches!(self, Self::Events(_));
        let (wait, begin) = match (phase, code) {
            (_, Some(404)) if optional => (Wait::Absent, Begin::Anew),
            // A server that doesn't know `sendInitialEvents`, or has it switched off, says that the
            // request is invalid. Source: kubernetes/kubernetes
            // `apimachinery/pkg/apis/meta/internalversion/validation`.
            (Phase::StreamedList, Some(400 | 422)) if !in_events => (Wait::No, Begin::Plain),
            // Whatever keeps it from its end might do so each time.
            (Phase::StreamedList, _) if matches!(self, Self::Ended | Self::Unfinished(_)) => {
                (Wait::Pause, Begin::Plain)
            }
            // The version has expired. Said in the stream, whatever it is might come again from there.
            (Phase::Watch, Some(400 | 410 | 422)) => (Wait::Pause, Begin::Anew),
            (Phase::Watch, Some(_)) if in_events => (Wait::Pause, Begin::Anew),
            (Phase::Watch, _) if matches!(self, Self::Behind) => (Wait::Pause, Begin::Anew),
            _ => (Wait::Pause, Begin::Resume),
        };
        let renew = match self {
            Self::Request(kube::Error::SerdeError(_)) => false,
            Self::Request(_) | Self::Events(_) => code.is_none_or(|code| code == 401),
            Self::NoAnswer(_) | Self::Silence(_) => true,
            Self::Unfinished(_) | Self::Ended | Self::Behind | Self::NoVersion | Self::SamePage => {
                false
            }
        };
        Remedy { wait, begin, renew }
    }

    /// What it comes down to: the API server's own words, or else the whole chain of causes. A proxy
    /// before it may answer without a word.
    pub(super) fn text(&self) -> String {
        match self.status() {
            None => {}
            Some(status) if !status.message.is_empty() => return status.message.clone(),
            Some(Status { code: 0, .. }) => {
                return "answered with what is not of the API server".to_owned();
            }
            Some(Status { code, .. }) => return format!("answered {code} without a reason"),
        }
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !text.ends_with(&words) {
                text = format!("{text}: {words}");
            }
            cause = error.source();
        }
        text
    }

    /// What of it stays the same when it comes again: by this it is said once a minute.
    pub(super) fn cause(&self) -> String {
        match (self.status(), self) {
            (Some(status), _) => status.code.to_string(),
            (None, Self::Request(_)) => "the request failed".to_owned(),
            (None, Self::Events(_)) => "the watch broke off".to_owned(),
            (None, other) => other.to_string(),
        }
    }

    /// Whether the API server knows the agent too little to let it watch.
    pub(super) fn is_forbidden(&self) -> bool {
        self.status().is_some_and(|status| matches!(status.code, 401 | 403))
    }

    fn status(&self) -> Option<&Status> {
        match self {
            Self::Request(kube::Error::Api(status)) | Self::Events(kube::Error::Api(status)) => {
                Some(status)
            }
            _ => None,
        }
    }
}

/// Whether the API server has not come to the version that was asked for.
/// Source: kubernetes/kubernetes `apiserver/pkg/storage/errors.go` (`NewTooLargeResourceVersionError`).
pub(super) fn is_behind(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
}

/// Whether one object could not be understood. kube takes any JSON that is no event for a status,
/// which has no code then.
pub(super) fn is_unreadable(error: &kube::Error) -> bool {
    match error {
        kube::Error::SerdeError(_) => true,
        kube::Error::Api(status) => status.code == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn answered(code: u16) -> kube::Error {
        let message = format!("answered {code}");
        kube::Error::Api(Box::new(Status { code, message, ..Status::default() }))
    }

    fn broken() -> kube::Error {
        kube::Error::Service(Box::new(std::io::Error::other("connection refused")))
    }

    fn check(trouble: &Trouble, phase: Phase, wait: Wait, begin: Begin, renew: bool) {
        let expected = Remedy { wait, begin, renew };
        assert_eq!(trouble.remedy(phase, false), expected, "{phase:?} {trouble:?}");
    }

    #[test]
    fn only_an_invalid_request_at_the_start_means_no_streamed_lists() {
        let list = Phase::StreamedList;
        for code in [400, 422] {
            check(&Trouble::Request(answered(code)), list, Wait::No, Begin::Plain, false);
            let plain = Trouble::Request(answered(code));
            check(&plain, Phase::PlainList, Wait::Pause, Begin::Resume, false);
        }
        for code in [403, 410, 503] {
            check(&Trouble::Request(answered(code)), list, Wait::Pause, Begin::Resume, false);
        }
    }

    #[test]
    fn what_ended_is_gone_on_with_unless_it_is_a_streamed_list() {
        for trouble in [Trouble::Ended, Trouble::Unfinished(Duration::from_secs(9))] {
            check(&trouble, Phase::StreamedList, Wait::Pause, Begin::Plain, false);
        }
        for trouble in [Trouble::Ended, Trouble::SamePage] {
            check(&trouble, Phase::PlainList, Wait::Pause, Begin::Resume, false);
        }
        check(&Trouble::Ended, Phase::Watch, Wait::Pause, Begin::Resume, false);
    }

    #[test]
    fn what_can_not_be_resumed_is_listed_anew() {
        let watch = Phase::Watch;
        for code in [400, 410, 422] {
            check(&Trouble::Request(answered(code)), watch, Wait::Pause, Begin::Anew, false);
        }
        for code in [410, 500] {
            check(&Trouble::Events(answered(code)), watch, Wait::Pause, Begin::Anew, false);
        }
        check(&Trouble::Behind, watch, Wait::Pause, Begin::Anew, false);
        for code in [403, 429, 503] {
            check(&Trouble::Request(answered(code)), watch, Wait::Pause, Begin::Resume, false);
        }
    }

    #[test]
    fn who_does_not_get_through_reads_the_files_again() {
        let refused = Trouble::Request(answered(401));
        let silence = Duration::from_secs(9);
        for phase in [Phase::StreamedList, Phase::PlainList, Phase::Watch] {
            for trouble in [
                &refused,
                &Trouble::Request(broken()),
                &Trouble::Events(broken()),
                &Trouble::NoAnswer(silence),
                &Trouble::Silence(silence),
            ] {
                check(trouble, phase, Wait::Pause, Begin::Resume, true);
            }
            check(&Trouble::NoVersion, phase, Wait::Pause, Begin::Resume, false);
        }
    }

    #[test]
    fn a_kind_that_is_not_there_is_asked_for_seldom_and_listed_when_it_is() {
        for phase in [Phase::StreamedList, Phase::PlainList, Phase::Watch] {
            let trouble = Trouble::Request(answered(404));
            let remedy = trouble.remedy(phase, true);
            assert_eq!((remedy.wait, remedy.begin), (Wait::Absent, Begin::Anew));
            check(&trouble, phase, Wait::Pause, Begin::Resume, false);
        }
    }

    #[test]
    fn trouble_is_said_in_the_servers_words_or_with_all_its_causes() {
        let check = |trouble: Trouble, forbidden, text: &str| {
            assert_eq!((trouble.is_forbidden(), trouble.text().as_str()), (forbidden, text));
        };
        check(Trouble::Events(answered(403)), true, "answered 403");
        check(Trouble::Request(answered(503)), false, "answered 503");
        let wordless = |code| {
            let status = Status { code, message: String::new(), ..Status::default() };
            Trouble::Request(kube::Error::Api(Box::new(status)))
        };
        check(wordless(502), false, "answered 502 without a reason");
        check(wordless(0), false, "answered with what is not of the API server");
        check(
            Trouble::Events(broken()),
            false,
            "the watch broke off: ServiceError: connection refused",
        );
        check(Trouble::NoAnswer(Duration::from_secs(30)), false, "no answer within 30 s");
    }

    #[test]
    fn trouble_of_one_cause_is_told_from_that_of_another() {
        let causes = [
            Trouble::Request(answered(410)),
            Trouble::Request(answered(503)),
            Trouble::Request(broken()),
            Trouble::Events(broken()),
            Trouble::NoAnswer(Duration::from_secs(30)),
            Trouble::Ended,
        ]
        .map(|trouble| trouble.cause());
        let different: HashSet<&String> = causes.iter().collect();
        assert_eq!(different.len(), causes.len(), "{causes:?}");
        let status =
            Status { code: 410, message: "version 5 is too old".to_owned(), ..Status::default() };
        assert_eq!(Trouble::Events(kube::Error::Api(Box::new(status))).cause(), causes[0]);
    }

    #[test]
    fn an_object_that_can_not_be_read_is_no_word_of_the_servers() {
        let parsed = serde_json::from_str::<u8>("{").unwrap_err();
        assert!(is_unreadable(&kube::Error::SerdeError(parsed)) && is_unreadable(&answered(0)));
        assert!(!is_unreadable(&answered(410)) && !is_unreadable(&broken()));
    }
}
