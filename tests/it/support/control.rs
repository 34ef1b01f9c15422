//! A control plane with scheduler and controllers, as those see it who install something.
//!
//! There is no kubelet: pods are bound to nodes, and nothing runs them. What is installed has
//! fixed names, so one test at a time has it.

use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use hyper::http::{Method, Request};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::kubectl::Kubectl;
use super::{alone_with_the_control_plane, kube as cluster, server};

pub(crate) struct ControlPlane {
    runtime: Runtime,
    /// The administrator's.
    kubeconfig: PathBuf,
    kubectl: Kubectl,
    _alone: MutexGuard<'static, ()>,
}

/// One kind of thing that the server has, or a part of it such as `pods/log`.
pub(crate) struct Resource {
    /// `/api/v1` or `/apis/GROUP/VERSION`
    pub(crate) root: String,
    pub(crate) name: String,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl ControlPlane {
    pub(crate) fn alone() -> Self {
        let _alone = alone_with_the_control_plane();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let kubeconfig = PathBuf::from(server("CLUSTER_KUBECONFIG"));
        let kubectl = Kubectl::new(&kubeconfig);
        Self { runtime, kubeconfig, kubectl, _alone }
    }

    /// Runs `kubectl`, which has to succeed, with `input` on its standard input; what it printed.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        self.kubectl.succeed(arguments, input)
    }

    /// `kubectl apply -k`, which has to succeed without a word of warning.
    pub(crate) fn apply(&self, folder: &Path) {
        let folder = folder.to_str().expect("UTF-8");
        let output =
            self.kubectl.run(&["apply", "--server-side", "--validate=strict", "-k", folder], "");
        assert!(output.status.success(), "{folder}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{folder}");
    }

    /// What `kubectl get` prints as JSON.
    pub(crate) fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat(), "");
        serde_json::from_str(&text).unwrap()
    }

    /// Creates what is described or makes it so, its status too.
    pub(crate) fn make(&self, object: &Value) {
        let text = object.to_string();
        let apply = ["apply", "--server-side", "-f", "-"];
        self.kubectl(&apply, &text);
        self.kubectl(&[&apply[..], &["--subresource=status"]].concat(), &text);
    }

    /// A kubeconfig with a fresh token of this ServiceAccount.
    pub(crate) fn account(&self, namespace: &str, name: &str) -> Value {
        let token = self.kubectl(&["create", "token", "-n", namespace, name], "");
        let admin = serde_json::to_value(Kubeconfig::read_from(&self.kubeconfig).unwrap()).unwrap();
        cluster::kubeconfig(&admin, &json!({"token": token.trim()}))
    }

    pub(crate) fn client(&self, kubeconfig: &Value) -> Client {
        let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone()).unwrap();
        self.runtime.block_on(cluster::client(&kubeconfig))
    }

    /// The status code of the answer.
    pub(crate) fn ask(&self, client: &Client, method: &Method, path: &str) -> u16 {
        let body = match *method {
            Method::POST | Method::PUT | Method::PATCH => b"{}".to_vec(),
            _ => Vec::new(),
        };
        let kind = match *method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request =
            Request::builder().method(method).uri(path).header("content-type", kind).body(body);
        match self.runtime.block_on(client.request_text(request.unwrap())) {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    /// Everything that the server has, in the version that each group prefers.
    pub(crate) fn resources(&self) -> Vec<Resource> {
        let client = self.runtime.block_on(async {
            cluster::client(&Kubeconfig::read_from(&self.kubeconfig).unwrap()).await
        });
        let all = async {
            let core = client.list_core_api_resources("v1").await.unwrap();
            let mut all = vec![("/api/v1".to_owned(), core.resources)];
            for group in client.list_api_groups().await.unwrap().groups {
                let version = group.preferred_version.expect("a version").group_version;
                let list = client.list_api_group_resources(&version).await.unwrap();
                all.push((format!("/apis/{version}"), list.resources));
            }
            all
        };
        let all = self.runtime.block_on(all);
        let resource = |root: &str, resource: APIResource| Resource {
            root: root.to_owned(),
            name: resource.name,
            namespaced: resource.namespaced,
            verbs: resource.verbs,
        };
        all.into_iter()
            .flat_map(|(root, list)| list.into_iter().map(move |one| resource(&root, one)))
            .collect()
    }
}
