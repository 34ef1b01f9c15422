//! The secrets and certificates that an output uses, read again when their files change.
//!
//! Owns [`Stamp`], by which a change is noticed, and the secret of an output
//! ([`Credentials`]). Guarantees that no secret is printed: errors name the file, never what is
//! in it. A mounted Kubernetes secret changes by a link being replaced, so that links are
//! followed here.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use tokio::time::Instant;

use crate::config::pipeline::{Auth, Secret};

/// How often files are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The largest secret that is read.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// Why there is no secret to send.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialError {
    #[error("cannot read the secret in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the secret in {} is larger than 64 KiB", path.display())]
    TooLarge { path: PathBuf },
    #[error("the API key has a character that a header cannot carry")]
    NotAHeader,
}

/// What a file looked like: another stamp means that it may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// `None` if there is no such file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// The secret of one output, as last read.
pub(super) struct Credentials {
    auth: Auth,
    read: Option<(Option<Stamp>, Proof)>,
    looked: Option<Instant>,
}

/// What goes with a request.
#[derive(Clone)]
enum Proof {
    None,
    Basic { user: String, password: String },
    Header(HeaderValue),
}

impl Credentials {
    pub(super) fn new(auth: Auth) -> Self {
        Self { auth, read: None, looked: None }
    }

    /// Reads the file again at the next request, even within [`LOOK_EVERY`]: after a 401.
    pub(super) fn doubt(&mut self) {
        self.looked = None;
        if self.file().is_some() {
            self.read = None;
        }
    }

    /// Adds what proves who sends it.
    pub(super) fn sign(
        &mut self,
        request: RequestBuilder,
        now: Instant,
    ) -> Result<RequestBuilder, CredentialError> {
        Ok(match self.proof(now)? {
            Proof::None => request,
            // Marks the header as sensitive.
            Proof::Basic { user, password } => request.basic_auth(user, Some(password)),
            Proof::Header(value) => request.header(AUTHORIZATION, value),
        })
    }

    fn proof(&mut self, now: Instant) -> Result<&Proof, CredentialError> {
        let due = self.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY);
        if due {
            // Before reading: a change in between is noticed the next time.
            let stamp = self.file().and_then(Stamp::of);
            if self.read.as_ref().is_none_or(|(read, _)| *read != stamp) {
                self.read = None;
            }
            if self.read.is_none() {
                self.read = Some((stamp, prove(&self.auth)?));
            }
            self.looked = Some(now);
        }
        Ok(self.read.as_ref().map_or(&Proof::None, |(_, proof)| proof))
    }

    fn file(&self) -> Option<&Path> {
        match &self.auth {
            Auth::Basic { password: Secret::File(path), .. } | Auth::ApiKey(Secret::File(path)) => {
                Some(path)
            }
            _ => None,
        }
    }
}

fn prove(auth: &Auth) -> Result<Proof, CredentialError> {
    Ok(match auth {
        Auth::None => Proof::None,
        Auth::Basic { user, password } => {
            Proof::Basic { user: user.clone(), password: read_secret(password)? }
        }
        Auth::ApiKey(key) => {
            let mut value = HeaderValue::try_from(format!("ApiKey {}", read_secret(key)?))
                .map_err(|_| CredentialError::NotAHeader)?;
            value.set_sensitive(true);
            Proof::Header(value)
        }
    })
}

/// The secret without the line's end that editors leave behind it.
fn read_secret(secret: &Secret) -> Result<String, CredentialError> {
    let path = match secret {
        Secret::Inline(value) => return Ok(value.clone()),
        Secret::File(path) => path,
    };
    let failed = |source| CredentialError::Read { path: path.clone(), source };
    if fs::metadata(path).map_err(failed)?.len() > MAX_SECRET_BYTES {
        return Err(CredentialError::TooLarge { path: path.clone() });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("auth", &self.auth).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(auth: Auth) -> HeaderValue {
        let request = reqwest::Client::new().get("http://localhost");
        let signed = Credentials::new(auth).sign(request, Instant::now()).expect("a secret");
        signed.build().expect("a request").headers()[AUTHORIZATION].clone()
    }

    #[test]
    fn secrets_are_marked_and_never_printed() {
        let secret = || Secret::Inline("hunter2".into());
        let basic = Auth::Basic { user: "elastic".into(), password: secret() };
        assert!(signed(basic.clone()).is_sensitive());
        let key = signed(Auth::ApiKey(secret()));
        assert!(key.is_sensitive());
        assert_eq!(key.as_bytes(), b"ApiKey hunter2");
        let mut credentials = Credentials::new(basic);
        credentials.proof(Instant::now()).expect("a secret");
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }

    #[test]
    fn errors_name_the_file_and_not_the_secret() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        let error = |secret| match prove(&Auth::ApiKey(secret)) {
            Ok(_) => panic!("it cannot work"),
            Err(error) => error.to_string(),
        };
        let file = || Secret::File(path.clone());
        assert_eq!(error(file()), format!("cannot read the secret in {}", path.display()));
        fs::write(&path, vec![b'x'; 65 * 1024]).expect("write");
        let large = format!("the secret in {} is larger than 64 KiB", path.display());
        assert_eq!(error(file()), large);
        let bad = "the API key has a character that a header cannot carry";
        assert_eq!(error(Secret::Inline("hunter\n2".into())), bad);
    }

    #[test]
    fn a_file_is_looked_at_once_a_second_and_after_a_401() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        let mut credentials = Credentials::new(Auth::ApiKey(Secret::File(path.clone())));
        let now = Instant::now();
        let mut key_at = |after: Duration, doubted: bool| {
            if doubted {
                credentials.doubt();
            }
            match credentials.proof(now + after) {
                Ok(Proof::Header(value)) => value.to_str().expect("text").to_owned(),
                _ => panic!("there is a key"),
            }
        };
        fs::write(&path, "one").expect("write");
        assert_eq!(key_at(Duration::ZERO, false), "ApiKey one");
        fs::write(&path, "three").expect("write");
        assert_eq!(key_at(LOOK_EVERY / 2, false), "ApiKey one");
        assert_eq!(key_at(LOOK_EVERY, false), "ApiKey three");
        fs::write(&path, "four").expect("write");
        assert_eq!(key_at(LOOK_EVERY, true), "ApiKey four");
    }
}
