//! The cluster as its administrator sees it.
//!
//! There is no kubelet, scheduler or controller: a test writes nodes and pods itself, and a pod
//! that was deleted is gone at once.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::kubectl::Kubectl;
use super::{SOON, pods, server, unique, wait_until};

/// A server with a node and a namespace that are one test's own.
pub(crate) struct Cluster {
    runtime: Runtime,
    client: Client,
    /// The administrator's kubeconfig.
    admin: Value,
    pub(crate) node: String,
    pub(crate) namespace: String,
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("a valid object")
}

/// A token that counts until its Secret is deleted.
pub(crate) struct Token {
    pub(crate) text: String,
    secret: String,
}

impl Cluster {
    /// On the server that the tests share.
    pub(crate) fn new() -> Self {
        Self::of(Path::new(&server("KUBECONFIG")))
    }

    /// On the server of this administrator.
    pub(crate) fn of(admin: &Path) -> Self {
        let admin = Kubeconfig::read_from(admin).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(client(&admin));
        let admin = serde_json::to_value(&admin).unwrap();
        let cluster =
            Self { runtime, client, admin, node: unique("node"), namespace: unique("flink") };
        cluster.add_node(&cluster.node);
        let namespace = json!({"metadata": {"name": cluster.namespace}});
        cluster.create(&Api::<Namespace>::all(cluster.client.clone()), namespace);
        cluster
    }

    pub(crate) fn add_node(&self, name: &str) {
        let node = json!({"metadata": {"name": name}});
        self.create(&Api::<Node>::all(self.client.clone()), node);
    }

    fn create<K>(&self, api: &Api<K>, value: Value) -> K
    where
        K: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
    {
        self.runtime.block_on(api.create(&PostParams::default(), &object(value))).unwrap()
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates the pod, which gets its uid from the server, on its node and running.
    pub(crate) fn add_pod(&self, pod: &mut pods::Pod) {
        self.create_pod(pod, true);
        self.update_status(pod);
    }

    /// The same for a pod whose object is this large.
    pub(crate) fn add_large_pod(&self, pod: &mut pods::Pod, bytes: usize) {
        pod.namespace.clone_from(&self.namespace);
        let mut value = pod.object();
        value["metadata"].as_object_mut().unwrap().remove("uid");
        value["spec"]["containers"][0]["env"] =
            json!([{"name": "LARGE", "value": "x".repeat(bytes)}]);
        let created = self.create(&self.pods(), value);
        pod.uid = created.metadata.uid.expect("the server gives one");
        self.update_status(pod);
    }

    /// Creates the pod without a node: nobody who asks for a node's pods sees it.
    pub(crate) fn add_unbound_pod(&self, pod: &mut pods::Pod) {
        self.create_pod(pod, false);
    }

    fn create_pod(&self, pod: &mut pods::Pod, bound: bool) {
        pod.namespace.clone_from(&self.namespace);
        let mut value = pod.object();
        value["metadata"].as_object_mut().unwrap().remove("uid");
        if !bound {
            value["spec"].as_object_mut().unwrap().remove("nodeName");
        }
        let created = self.create(&self.pods(), value);
        pod.uid = created.metadata.uid.expect("the server gives one");
    }

    /// Puts an unbound pod on its node, as the scheduler would, and makes it run.
    pub(crate) fn bind(&self, pod: &pods::Pod) {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": pod.node},
        });
        let (api, post) = (self.pods(), PostParams::default());
        let bind = api.create_subresource::<_, Value>("binding", &pod.name, &post, &binding);
        self.runtime.block_on(bind).unwrap();
        self.update_status(pod);
    }

    /// Says what the kubelet would about the pod's containers.
    pub(crate) fn update_status(&self, pod: &pods::Pod) {
        let patch = Patch::Merge(json!({"status": pod.status()}));
        let (api, how) = (self.pods(), PatchParams::default());
        let patch = api.patch_status(&pod.name, &how, &patch);
        self.runtime.block_on(patch).unwrap();
    }

    pub(crate) fn set_label(&self, pod: &pods::Pod, name: &str, value: &str) {
        let patch = Patch::Merge(json!({"metadata": {"labels": {name: value}}}));
        let (api, how) = (self.pods(), PatchParams::default());
        let patch = api.patch(&pod.name, &how, &patch);
        self.runtime.block_on(patch).unwrap();
    }

    /// Sets a label of the cluster's namespace.
    pub(crate) fn set_namespace_label(&self, name: &str, value: &str) {
        let patch = Patch::Merge(json!({"metadata": {"labels": {name: value}}}));
        let api = Api::<Namespace>::all(self.client.clone());
        let how = PatchParams::default();
        self.runtime.block_on(api.patch(&self.namespace, &how, &patch)).unwrap();
    }

    /// Deletes the pod for good.
    pub(crate) fn delete_pod(&self, pod: &pods::Pod) {
        let now = DeleteParams::default().grace_period(0);
        self.runtime.block_on(self.pods().delete(&pod.name, &now)).unwrap();
    }

    /// Writes a kubeconfig whose token may list and watch pods and nothing else.
    pub(crate) fn pod_reader(&self, path: &Path) {
        self.reader(path, &[("", &["pods"])]);
    }

    /// The same for namespaces too.
    pub(crate) fn namespace_reader(&self, path: &Path) {
        self.reader(path, &[("", &["pods", "namespaces"])]);
    }

    /// The same for the objects of Flink's operator too.
    pub(crate) fn flink_reader(&self, path: &Path) {
        let flink = ["flinkdeployments", "flinksessionjobs"];
        self.reader(path, &[("", &["pods"]), ("flink.apache.org", &flink)]);
    }

    /// Has the server know the kinds of Flink's operator.
    pub(crate) fn define_flink(&self) {
        let folder = server("DEFINITIONS");
        let kubectl = Kubectl::new(Path::new(&server("KUBECONFIG")));
        for name in ["flinkdeployments", "flinksessionjobs"] {
            let file = format!("{folder}/{name}.yaml");
            kubectl.succeed(&["apply", "--server-side", "--force-conflicts", "-f", &file], "");
        }
        for kind in ["FlinkDeployment", "FlinkSessionJob"] {
            let api = self.flink_objects(kind);
            wait_until(SOON, "the server has the kind", || {
                self.runtime.block_on(api.list(&ListParams::default())).is_ok()
            });
        }
    }

    /// Has the server check these objects, to the last field, in the cluster's namespace; none is made.
    pub(crate) fn check(&self, objects: &str) {
        let kubectl = Kubectl::new(Path::new(&server("KUBECONFIG")));
        let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        kubectl.succeed(&[&apply[..], &["-n", &self.namespace]].concat(), objects);
    }

    /// Makes an object of Flink's operator, or makes it so, as its user and the operator would.
    pub(crate) fn flink(&self, kind: &str, name: &str, spec: &Value, status: &Value) {
        let object = json!({
            "apiVersion": "flink.apache.org/v1beta1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        });
        let (api, how) = (self.flink_objects(kind), PatchParams::apply("test").force());
        self.runtime.block_on(api.patch(name, &how, &Patch::Apply(object))).unwrap();
        let status = Patch::Merge(json!({"status": status}));
        let how = PatchParams::default();
        let patch = api.patch_status(name, &how, &status);
        self.runtime.block_on(patch).unwrap();
    }

    pub(crate) fn delete_flink(&self, kind: &str, name: &str) {
        let api = self.flink_objects(kind);
        self.runtime.block_on(api.delete(name, &DeleteParams::default())).unwrap();
    }

    fn flink_objects(&self, kind: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("flink.apache.org", "v1beta1", kind);
        let resource = ApiResource::from_gvk(&kind);
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Writes a kubeconfig whose token may list and watch these, by API group, and nothing else.
    fn reader(&self, path: &Path, resources: &[(&str, &[&str])]) {
        let account = self.account(resources);
        let token = self.token(&account, None);
        self.write_kubeconfig(path, &json!({"token": token}));
        self.wait_for_permission(path);
    }

    /// A ServiceAccount that may list and watch pods and nothing else.
    pub(crate) fn reading_account(&self) -> String {
        self.account(&[("", &["pods"])])
    }

    /// A ServiceAccount that may list and watch these, by API group, and nothing else.
    fn account(&self, resources: &[(&str, &[&str])]) -> String {
        let name = unique("reader");
        self.create(&self.accounts(), json!({"metadata": {"name": name}}));
        let rules: Vec<Value> = (resources.iter())
            .map(|(group, names)| {
                let verbs = ["list", "watch"];
                json!({"apiGroups": [group], "resources": names, "verbs": verbs})
            })
            .collect();
        let role = json!({"metadata": {"name": name}, "rules": rules});
        self.create(&Api::<ClusterRole>::all(self.client.clone()), role);
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                        "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}],
        });
        self.create(&Api::<ClusterRoleBinding>::all(self.client.clone()), binding);
        name
    }

    fn accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn token(&self, account: &str, bound_to: Option<BoundObjectReference>) -> String {
        let spec = TokenRequestSpec {
            expiration_seconds: Some(3600),
            bound_object_ref: bound_to,
            ..Default::default()
        };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let post = PostParams::default();
        let accounts = self.accounts();
        let request = accounts.create_token_request(account, &post, &request);
        let answered = self.runtime.block_on(request).unwrap();
        answered.status.and_then(|status| status.token).expect("the server gives a token")
    }

    /// A token of the account that [`Self::end_tokens`] can end.
    pub(crate) fn bound_token(&self, account: &str) -> Token {
        let secret = unique("token");
        let created = self.create(&self.secrets(), json!({"metadata": {"name": secret}}));
        let bound_to = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(secret.clone()),
            uid: created.metadata.uid,
        };
        Token { text: self.token(account, Some(bound_to)), secret }
    }

    /// Ends the tokens, and waits until the server has forgotten that they counted.
    pub(crate) fn end_tokens(&self, tokens: &[Token]) {
        let end = async {
            for token in tokens {
                self.secrets().delete(&token.secret, &DeleteParams::default()).await.unwrap();
            }
            for token in tokens {
                let user = json!({"token": token.text});
                let config = serde_json::from_value(kubeconfig(&self.admin, &user)).unwrap();
                let pods: Api<Pod> = Api::all(client(&config).await);
                while !matches!(pods.list(&ListParams::default().limit(1)).await,
                                Err(kube::Error::Api(status)) if status.code == 401)
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        let end = async { tokio::time::timeout(SOON, end).await };
        self.runtime.block_on(end).expect("the tokens are refused after a moment");
    }

    /// Writes a kubeconfig for `user` that leads to the server by way of `road`.
    pub(crate) fn write_kubeconfig_by(&self, road: SocketAddr, path: &Path, user: &Value) {
        let mut config = kubeconfig(&self.admin, user);
        config["clusters"][0]["cluster"]["server"] = json!(format!("https://{road}"));
        replace(path, &serde_json::to_vec(&config).unwrap());
    }

    /// Where in the server's history a watch of all pods would begin now.
    pub(crate) fn version(&self) -> String {
        let list = self.runtime.block_on(self.pods().list(&Default::default())).unwrap();
        list.metadata.resource_version.expect("a list has one")
    }

    /// Whether the server has forgotten what a watch that begins at `version` would have to tell.
    pub(crate) fn has_expired(&self, version: &str) -> bool {
        let (api, parameters) = (self.pods(), WatchParams::default().timeout(1));
        let events = async { api.watch(&parameters, version).await?.try_collect::<Vec<_>>().await };
        match self.runtime.block_on(events) {
            Ok(events) => events
                .iter()
                .any(|event| matches!(event, WatchEvent::Error(status) if status.code == 410)),
            Err(kube::Error::Api(status)) => status.code == 410,
            Err(error) => panic!("{error}"),
        }
    }

    /// Writes a kubeconfig with the rights of a kubelet: it may list and watch the pods of `node`,
    /// and is refused any other list of pods (the server's Node authorizer).
    pub(crate) fn kubelet(&self, path: &Path, node: &str) {
        self.write_kubeconfig(path, &self.kubelet_user(node));
    }

    fn kubelet_user(&self, node: &str) -> Value {
        let mut user = self.admin["users"][0]["user"].clone();
        user["as"] = json!(format!("system:node:{node}"));
        user["as-groups"] = json!(["system:nodes"]);
        user
    }

    /// The same for the cluster's own node, by way of `road`.
    pub(crate) fn kubelet_by(&self, road: SocketAddr, path: &Path) {
        self.write_kubeconfig_by(road, path, &self.kubelet_user(&self.node));
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        let url = self.admin["clusters"][0]["cluster"]["server"].as_str().expect("there is one");
        url.trim_start_matches("https://").parse().expect("an address on loopback")
    }

    /// The certificate of the authority that the server's own is by.
    pub(crate) fn authority(&self) -> Vec<u8> {
        let data = &self.admin["clusters"][0]["cluster"]["certificate-authority-data"];
        object::<ByteString>(data.clone()).0
    }

    fn write_kubeconfig(&self, path: &Path, user: &Value) {
        std::fs::write(path, serde_json::to_vec(&kubeconfig(&self.admin, user)).unwrap()).unwrap();
    }

    /// Rules count a moment after they were written, when the server's own watch has seen them.
    fn wait_for_permission(&self, path: &Path) {
        let config = Kubeconfig::read_from(path).unwrap();
        let allowed = async {
            let pods: Api<Pod> = Api::all(client(&config).await);
            while pods.list(&ListParams::default().limit(1)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let allowed = async { tokio::time::timeout(SOON, allowed).await };
        self.runtime.block_on(allowed).expect("the role counts after a moment");
    }
}

/// Writes a file that appears whole under its name, as the kubelet's do.
pub(crate) fn replace(path: &Path, text: &[u8]) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

/// What leads `user` to the server of the administrator's kubeconfig.
pub(super) fn kubeconfig(admin: &Value, user: &Value) -> Value {
    let cluster = &admin["clusters"][0]["cluster"];
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": cluster}],
        "users": [{"name": "agent", "user": user}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "agent"}}],
        "current-context": "local",
    })
}

pub(super) async fn client(kubeconfig: &Kubeconfig) -> Client {
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await.unwrap();
    Client::try_from(config).unwrap()
}
