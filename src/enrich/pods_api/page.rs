//! One page of a plain list, or all of it.
//!
//! Guarantees that an object which can't be understood costs only itself: kube's own list would
//! fail as a whole, be logged with all its text and be asked for again for ever.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::{ListParams, Request};
use kube::{Client, Error, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

pub(super) struct Page<K> {
    pub(super) items: Vec<kube::Result<K>>,
    /// Of the list; none where the server doesn't say it.
    pub(super) version: Option<String>,
    /// What the next page is asked for with, if there is one.
    pub(super) next: Option<String>,
}

impl<K: Resource<DynamicType: Default> + DeserializeOwned> Page<K> {
    pub(super) async fn get(client: Client, params: &ListParams) -> kube::Result<Self> {
        let request = Request::new(K::url_path(&K::DynamicType::default(), None));
        let request = request.list(params).map_err(Error::BuildRequest)?;
        let text = client.request_text(request).await?;
        let Answer { metadata, items } =
            serde_json::from_str::<Answer<K>>(&text).map_err(Error::SerdeError)?;
        let items = items.unwrap_or_default().into_iter();
        Ok(Self {
            items: items.map(|Item(item)| item.map_err(Error::SerdeError)).collect(),
            version: metadata.resource_version.and_then(known),
            next: metadata.continue_.and_then(known),
        })
    }
}

/// What a server leaves empty it doesn't say: a version that is empty would mean any.
pub(super) fn known(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[derive(Deserialize)]
struct Answer<K: DeserializeOwned> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(bound = "")]
    items: Option<Vec<Item<K>>>,
}

struct Item<K>(serde_json::Result<K>);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Item<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Self(serde_json::from_value(value)))
    }
}
