//! Stores of the `object_store` family: memory for tests, S3 and what speaks its protocol.
//!
//! A conditional create is `PutMode::Create`, on S3 a PUT with `If-None-Match: *`. The client's own
//! retries may meet the object that an earlier try of theirs had made and then report that the name is
//! taken; whoever creates tells the two cases apart by what the object holds.

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::{
    Error, ObjectMeta, ObjectStore as Client, ObjectStoreExt, PutMode, PutOptions,
    aws::{AmazonS3Builder, S3ConditionalPut},
    memory::InMemory,
    path::Path,
};
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};
use tidemill_core::store::{Created, ObjectInfo, Store, StoreError};

/// The memory stores of this process, by name.
static MEMORY: Mutex<Option<HashMap<String, Arc<InMemory>>>> = Mutex::new(None);

/// A store behind an `object_store` client.
#[derive(Debug)]
pub struct ObjectStore {
    client: Arc<dyn Client>,
    /// Stands before every name; empty or without slashes at its ends.
    prefix: String,
    location: String,
    local: bool,
    secrets: Secrets,
}

/// What must not be said: servers repeat a part of it in their refusals, which become errors and log lines.
#[derive(Default)]
struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// Those that a client takes from the environment.
    fn of_environment() -> Self {
        // A short value, as test servers have, may be any word.
        let names = [
            ("AWS_SECRET_ACCESS_KEY", 1),
            ("AWS_SESSION_TOKEN", 1),
            ("AWS_TOKEN", 1),
            ("AWS_ACCESS_KEY_ID", 8),
        ];
        let values = names.iter().filter_map(|(name, least)| Some((std::env::var(name).ok()?, *least)));
        Self(values.filter(|(value, least)| value.len() >= *least).map(|(value, _)| value).collect())
    }

    fn hide(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| text.replace(secret, "***"))
    }
}

impl ObjectStore {
    /// The memory store of a name: all who open it in this process share it.
    pub fn memory(name: &str) -> Self {
        let mut stores = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
        let client = stores.get_or_insert_default().entry(name.to_string()).or_default().clone();
        Self {
            client,
            prefix: String::new(),
            location: format!("memory://{name}"),
            local: true,
            secrets: Secrets::default(),
        }
    }

    /// The part of an S3 bucket under a prefix, with the settings of the `AWS_*` environment variables.
    ///
    /// # Errors
    ///
    /// When the settings do not make a client.
    pub fn s3(bucket: &str, prefix: &str) -> Result<Self, StoreError> {
        let prefix = prefix.trim_matches('/');
        let location = format!("s3://{bucket}/{prefix}").trim_end_matches('/').to_string();
        if !prefix.is_empty() {
            super::check_name(prefix)?;
        }
        let secrets = Secrets::of_environment();
        let client = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .build()
            .map_err(|error| {
                let what = format!("cannot open {location}: {error}; check the AWS_* environment variables");
                StoreError::Failed(secrets.hide(what))
            })?;
        Ok(Self { client: Arc::new(client), prefix: prefix.to_string(), location, local: false, secrets })
    }

    fn path(&self, name: &str) -> Result<Path, StoreError> {
        super::check_name(name)?;
        self.parse(name)
    }

    fn parse(&self, name: &str) -> Result<Path, StoreError> {
        Path::parse(format!("{}/{name}", self.prefix))
            .map_err(|error| StoreError::Failed(format!("{name:?} cannot be the name of an object: {error}")))
    }

    fn failed(&self, operation: &str, name: &str, error: Error) -> StoreError {
        match error {
            Error::NotFound { .. } => {
                StoreError::NotFound { name: name.to_string(), location: self.location.clone() }
            }
            error => {
                let what = format!("cannot {operation} {}/{name}: {error}", self.location);
                StoreError::Failed(self.secrets.hide(what))
            }
        }
    }
}

#[async_trait]
impl Store for ObjectStore {
    fn location(&self) -> &str {
        &self.location
    }

    fn is_local(&self) -> bool {
        self.local
    }

    async fn put(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        let put = self.client.put(&self.path(name)?, body.into()).await;
        put.map(drop).map_err(|error| self.failed("write", name, error))
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        let options = PutOptions::from(PutMode::Create);
        match self.client.put_opts(&self.path(name)?, body.into(), options).await {
            Ok(_) => Ok(Created::New),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::Exists),
            Err(error) => Err(self.failed("create", name, error)),
        }
    }

    async fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        let failed = |error| self.failed("read", name, error);
        self.client.get(&self.path(name)?).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(name)?;
        if range.start == range.end {
            let size = self.client.head(&path).await.map_err(|error| self.failed("read", name, error))?.size;
            return if range.end <= size { Ok(Bytes::new()) } else { Err(self.beyond(name, &range, size)) };
        }
        let bytes = self.client.get_range(&path, range.clone()).await;
        let bytes = bytes.map_err(|error| self.failed("read", name, error))?;
        // Clients cut a range at the object's end.
        if bytes.len() as u64 != range.end - range.start {
            return Err(self.beyond(name, &range, range.start + bytes.len() as u64));
        }
        Ok(bytes)
    }

    async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let prefix = self.parse(super::check_folder(folder)?)?;
        self.listed(folder, self.client.list(Some(&prefix))).await
    }

    async fn list_after(&self, folder: &str, after: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let prefix = self.parse(super::check_folder(folder)?)?;
        self.listed(folder, self.client.list_with_offset(Some(&prefix), &self.path(after)?)).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.client.delete(&self.path(name)?).await {
            Err(error) if !matches!(error, Error::NotFound { .. }) => Err(self.failed("delete", name, error)),
            _ => Ok(()),
        }
    }
}

impl ObjectStore {
    async fn listed(
        &self,
        folder: &str,
        objects: BoxStream<'_, Result<ObjectMeta, Error>>,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        let skip = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let named = objects.map_ok(|object| {
            let name = object.location.as_ref()[skip..].to_string();
            ObjectInfo { name, bytes: object.size }
        });
        named.try_collect().await.map_err(|error| self.failed("list", folder, error))
    }

    fn beyond(&self, name: &str, range: &Range<u64>, size: u64) -> StoreError {
        StoreError::Failed(format!(
            "cannot read {}/{name}: bytes {} to {} were asked for, it has {size}",
            self.location, range.start, range.end
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn memory_conforms() {
        conformance::check(Arc::new(ObjectStore::memory("memory-conforms"))).await.unwrap();
    }

    #[tokio::test]
    async fn a_prefix_conforms_and_stays_out_of_the_names() {
        let client = Arc::new(InMemory::new());
        let store = ObjectStore {
            client: client.clone(),
            prefix: "a/b c".into(),
            location: "s3://bucket/a/b c".into(),
            local: false,
            secrets: Secrets::default(),
        };
        conformance::check(Arc::new(store)).await.unwrap();
        let all: Vec<_> = client.list(None).try_collect().await.unwrap();
        assert!(!all.is_empty() && all.iter().all(|object| object.location.as_ref().starts_with("a/b c/")));
    }

    #[test]
    fn an_s3_address_has_no_trailing_slash() {
        let store = ObjectStore::s3("bucket", "some/prefix/").unwrap();
        assert_eq!(store.location(), "s3://bucket/some/prefix");
        assert_eq!(ObjectStore::s3("bucket", "").unwrap().location(), "s3://bucket");
        assert!(!store.is_local());
    }
}
