//! The files of a service account where the kubelet puts them, and the variables that go with them.
//!
//! They are on a file system in a namespace of its own over the machine's `/var/run`, so that only
//! the program sees them, and a test that runs in a pod never takes that pod's. As the kubelet does
//! it, all files are replaced at once: each is a link through `..data`, which leads to a folder.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::small_disk::SmallDisk;
use super::unique;

const FOLDER: &str = "secrets/kubernetes.io/serviceaccount";

/// More than the files of two tokens take.
const DISK_BYTES: u64 = 1024 * 1024;

/// What a pod has of its service account.
#[derive(Debug)]
pub(crate) struct Account {
    disk: SmallDisk,
    api_server: SocketAddr,
    authority: Vec<u8>,
    namespace: String,
}

impl Account {
    /// Of a pod in `namespace`, for the server at `api_server` with this authority; there are no
    /// files before [`Self::set_token`].
    pub(crate) fn new(api_server: SocketAddr, authority: Vec<u8>, namespace: &str) -> Self {
        // Without links, of which some are absolute and lead out of the namespace again.
        let run = Path::new("/var/run").canonicalize().unwrap();
        let disk = SmallDisk::mount(&run, DISK_BYTES);
        let folder = disk.folder().join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        for name in ["token", "ca.crt", "namespace"] {
            symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
        Self { disk, api_server, authority, namespace: namespace.to_owned() }
    }

    /// Puts files with this token in the place of those that are there.
    pub(crate) fn set_token(&self, token: &str) {
        let folder = self.disk.folder().join(FOLDER);
        let data = unique("..data");
        fs::create_dir(folder.join(&data)).unwrap();
        for (name, content) in [
            ("token", token.as_bytes()),
            ("ca.crt", self.authority.as_slice()),
            ("namespace", self.namespace.as_bytes()),
        ] {
            fs::write(folder.join(&data).join(name), content).unwrap();
        }
        let beside = folder.join("..data_tmp");
        symlink(&data, &beside).unwrap();
        fs::rename(&beside, folder.join("..data")).unwrap();
    }

    /// What runs `program` as in the pod.
    pub(crate) fn command(&self, program: &Path, home: &Path) -> Command {
        let mut command = self.disk.command(program);
        command
            .env_remove("KUBECONFIG")
            // There is no ~/.kube either.
            .env("HOME", home)
            .env("KUBERNETES_SERVICE_HOST", self.api_server.ip().to_string())
            .env("KUBERNETES_SERVICE_PORT", self.api_server.port().to_string());
        command
    }
}
