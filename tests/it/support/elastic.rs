//! Elasticsearch as a test sees it: indices of its own, and what is in them.

use std::time::Duration;

use elasticsearch::auth::Credentials;
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::headers::HeaderMap;
use elasticsearch::http::response::Response;
use elasticsearch::http::transport::{SingleNodeConnectionPool, TransportBuilder};
use elasticsearch::http::{Method, Url};
use elasticsearch::indices::{
    IndicesCreateParts, IndicesDeleteParts, IndicesExistsParts, IndicesGetMappingParts,
    IndicesRefreshParts,
};
use elasticsearch::{CountParts, Elasticsearch, ScrollParts, SearchParts};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::{server, unique};

/// Documents per page of a scroll.
const PAGE: i64 = 1000;

/// The administrator's way to a server.
#[derive(Debug)]
pub(crate) struct Elastic {
    client: Elasticsearch,
    runtime: Runtime,
    pub(crate) url: String,
}

impl Elastic {
    /// The server without security.
    pub(crate) fn plain() -> Self {
        Self::connect(server("ELASTICSEARCH_URL"), |builder| builder)
    }

    /// The server with TLS and a password.
    pub(crate) fn secure() -> Self {
        let ca = std::fs::read(server("ELASTICSEARCH_TLS_CA")).unwrap();
        let ca = Certificate::from_pem(&ca).unwrap();
        let user = server("ELASTICSEARCH_TLS_USER");
        let password = server("ELASTICSEARCH_TLS_PASSWORD");
        Self::connect(server("ELASTICSEARCH_TLS_URL"), |builder| {
            builder
                .cert_validation(CertificateValidation::Full(ca))
                .auth(Credentials::Basic(user, password))
        })
    }

    /// The server that may be ill-treated: it has one thread that writes and room for one more
    /// request behind it, and when its process is killed it is started again on the same data.
    pub(crate) fn frail() -> Self {
        Self::connect(server("ELASTICSEARCH_FRAIL_URL"), |builder| builder)
    }

    fn connect(url: String, how: impl FnOnce(TransportBuilder) -> TransportBuilder) -> Self {
        let pool = SingleNodeConnectionPool::new(Url::parse(&url).unwrap());
        let builder = TransportBuilder::new(pool).disable_proxy().timeout(Duration::from_secs(60));
        let client = Elasticsearch::new(how(builder).build().unwrap());
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { client, runtime, url }
    }

    /// What the server's API answers; it has to be a success. `path` begins without a slash.
    pub(crate) fn get(&self, path: &str) -> Value {
        self.ask(Method::Get, path, &Value::Null)
    }

    pub(crate) fn put(&self, path: &str, body: &Value) {
        self.ask(Method::Put, path, body);
    }

    pub(crate) fn post(&self, path: &str, body: &Value) {
        self.ask(Method::Post, path, body);
    }

    pub(crate) fn delete(&self, path: &str) {
        self.ask(Method::Delete, path, &Value::Null);
    }

    fn ask(&self, method: Method, path: &str, body: &Value) -> Value {
        self.runtime.block_on(good(self.send(method, path, body)))
    }

    /// The answer, or nothing where there is no good one.
    pub(crate) fn try_ask(&self, method: Method, path: &str, body: &Value) -> Option<Value> {
        let answer = async {
            let answer = self.send(method, path, body).await.ok()?;
            if answer.status_code().is_success() { answer.json().await.ok() } else { None }
        };
        self.runtime.block_on(answer)
    }

    /// `null` is no body.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Response, elasticsearch::Error> {
        let body = (!body.is_null()).then(|| body.to_string());
        self.client.send(method, path, HeaderMap::new(), None::<&()>, body, None).await
    }

    /// An index for one test, created with `mappings`; deleted when dropped.
    pub(crate) fn index(&self, mappings: &Value) -> Index<'_> {
        let index = self.missing_index();
        index.create(mappings);
        index
    }

    /// The name of an index that isn't there yet; deleted when dropped.
    pub(crate) fn missing_index(&self) -> Index<'_> {
        Index { elastic: self, name: unique("it") }
    }
}

async fn good(request: impl Future<Output = Result<Response, elasticsearch::Error>>) -> Value {
    let answer = request.await.unwrap();
    let status = answer.status_code();
    let body = answer.json().await.unwrap();
    assert!(status.is_success(), "{status}: {body}");
    body
}

/// A document as it is in the index.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    pub(crate) id: String,
    pub(crate) source: Value,
}

/// An index of one test.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    elastic: &'a Elastic,
    pub(crate) name: String,
}

impl Index<'_> {
    /// Where its server is.
    pub(crate) fn url(&self) -> &str {
        &self.elastic.url
    }

    /// Changes settings of the index.
    pub(crate) fn set(&self, settings: &Value) {
        self.elastic.put(&format!("{}/_settings", self.name), settings);
    }

    fn create(&self, mappings: &Value) {
        let create = async {
            let body = json!({
                "settings": {"number_of_shards": 1, "number_of_replicas": 0},
                "mappings": mappings,
            });
            let indices = self.elastic.client.indices();
            let parts = IndicesCreateParts::Index(&self.name);
            good(indices.create(parts).body(body).send()).await
        };
        self.elastic.runtime.block_on(create);
    }

    /// An empty index of the same name in its place.
    pub(crate) fn recreate(&self, mappings: &Value) {
        let delete = async {
            let parts = IndicesDeleteParts::Index(&[self.name.as_str()]);
            good(self.elastic.client.indices().delete(parts).send()).await
        };
        self.elastic.runtime.block_on(delete);
        self.create(mappings);
    }

    pub(crate) fn is_there(&self) -> bool {
        let names = [self.name.as_str()];
        let indices = self.elastic.client.indices();
        let exists = indices.exists(IndicesExistsParts::Index(&names)).send();
        self.elastic.runtime.block_on(exists).unwrap().status_code().is_success()
    }

    /// Documents in the index now; none if it isn't there.
    pub(crate) fn count(&self) -> u64 {
        if !self.is_there() {
            return 0;
        }
        let count = async {
            self.refresh().await;
            let parts = CountParts::Index(&[&self.name]);
            good(self.elastic.client.count(parts).send()).await
        };
        self.elastic.runtime.block_on(count)["count"].as_u64().unwrap()
    }

    /// How many documents a query of this kind finds.
    pub(crate) fn find(&self, kind: &str, query: &Value) -> u64 {
        let find = async {
            self.refresh().await;
            let body = json!({"query": {kind: query}});
            let parts = CountParts::Index(&[&self.name]);
            good(self.elastic.client.count(parts).body(body).send()).await
        };
        self.elastic.runtime.block_on(find)["count"].as_u64().unwrap()
    }

    async fn refresh(&self) {
        let parts = IndicesRefreshParts::Index(&[&self.name]);
        good(self.elastic.client.indices().refresh(parts).send()).await;
    }

    /// All documents, in the order of their ids.
    pub(crate) fn documents(&self) -> Vec<Document> {
        let mut documents = self.elastic.runtime.block_on(self.scroll());
        documents.sort_by(|left, right| left.id.cmp(&right.id));
        documents
    }

    async fn scroll(&self) -> Vec<Document> {
        self.refresh().await;
        let client = &self.elastic.client;
        let names = [self.name.as_str()];
        let search = client
            .search(SearchParts::Index(&names))
            .scroll("1m")
            .size(PAGE)
            .body(json!({"query": {"match_all": {}}, "sort": ["_doc"]}));
        let mut page = good(search.send()).await;
        let mut documents = Vec::new();
        loop {
            let hits = page["hits"]["hits"].as_array().unwrap();
            if hits.is_empty() {
                return documents;
            }
            documents.extend(hits.iter().map(|hit| Document {
                id: hit["_id"].as_str().unwrap().to_owned(),
                source: hit["_source"].clone(),
            }));
            let body = json!({"scroll": "1m", "scroll_id": page["_scroll_id"]});
            page = good(client.scroll(ScrollParts::None).body(body).send()).await;
        }
    }

    /// The type that the field has in the mapping; `field` is one of the top level.
    pub(crate) fn field_type(&self, field: &str) -> Option<String> {
        let parts = IndicesGetMappingParts::Index(&[&self.name]);
        let mapping = async { good(self.elastic.client.indices().get_mapping(parts).send()).await };
        let mapping = self.elastic.runtime.block_on(mapping);
        let field = &mapping[&self.name]["mappings"]["properties"][field]["type"];
        field.as_str().map(str::to_owned)
    }
}

impl Drop for Index<'_> {
    fn drop(&mut self) {
        let indices = self.elastic.client.indices();
        let parts = IndicesDeleteParts::Index(&[&self.name]);
        // an index that was never written is not there
        drop(self.elastic.runtime.block_on(indices.delete(parts).send()));
    }
}
