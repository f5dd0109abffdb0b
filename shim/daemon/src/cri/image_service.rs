//! `ImageService`: what each call is made of.

use super::stream::{Pieces, pieces};
use super::{Cri, images, stats, status};
use crate::effects::now_ns;
use crate::request::{PullConfig, RequestError, required};
use podbox_image::{Error as ImageError, ImageStore, Usage};
use podbox_proto::v1;
use podbox_proto::v1::image_service_server::ImageService;
use std::sync::Arc;
use tonic::{Request, Response, Status};

impl Cri {
    /// Runs store work on a thread that may wait for the disk.
    async fn with_images<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = Arc::clone(&self.node.images);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|_| Status::internal("the image store's work was cut off"))?.map_err(status::of_image)
    }

    async fn list(&self, filter: Option<v1::ImageFilter>) -> Result<Vec<v1::Image>, Status> {
        let wanted = filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
        let pinned = self.node.pinned.clone();
        self.with_images(move |store| {
            let found = if wanted.is_empty() { store.list()? } else { store.find(&wanted)?.into_iter().collect() };
            Ok(found.iter().map(|record| images::image(record, &pinned)).collect())
        })
        .await
    }
}

fn reference(image: Option<v1::ImageSpec>) -> Result<String, Status> {
    let image = required("image", image).map_err(status::of_request)?.image;
    if image.is_empty() { Err(status::of_request(RequestError::invalid("image.image", "is required"))) } else { Ok(image) }
}

fn usage(mountpoint: &str, usage: &Usage) -> v1::FilesystemUsage {
    let value = |value: u64| Some(v1::UInt64Value { value });
    v1::FilesystemUsage {
        timestamp: now_ns(),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: mountpoint.to_owned() }),
        used_bytes: value(usage.bytes),
        inodes_used: value(usage.inodes),
    }
}

#[tonic::async_trait]
impl ImageService for Cri {
    type StreamImagesStream = Pieces<v1::StreamImagesResponse>;

    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Result<Response<v1::ListImagesResponse>, Status> {
        Ok(Response::new(v1::ListImagesResponse { images: self.list(request.into_inner().filter).await? }))
    }

    async fn stream_images(&self, request: Request<v1::StreamImagesRequest>) -> Result<Response<Self::StreamImagesStream>, Status> {
        Ok(pieces(self.list(request.into_inner().filter).await?, |images| v1::StreamImagesResponse { images }))
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Result<Response<v1::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let (wanted, verbose) = (reference(request.image)?, request.verbose);
        let pinned = self.node.pinned.clone();
        let answer = self.with_images(move |store| {
            let Some(record) = store.find(&wanted)? else { return Ok(v1::ImageStatusResponse::default()) };
            let config = if verbose { store.config_json(&record.id)? } else { None };
            let info = if verbose { images::info(&record, config.as_deref()) } else { Default::default() };
            Ok(v1::ImageStatusResponse { image: Some(images::image(&record, &pinned)), info })
        });
        answer.await.map(Response::new)
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Result<Response<v1::PullImageResponse>, Status> {
        let default_registry = self.node.config.image.default_registry.as_str();
        let PullConfig { image, credentials } =
            PullConfig::try_from_request(request.into_inner(), default_registry).map_err(status::of_request)?;
        // A caller that gives up drops this, and the pull goes with the last of them.
        let pulled = self.node.puller.pull(&image, credentials).await;
        let record = pulled.map_err(|error| status::of_pull(&image, &error))?;
        Ok(Response::new(v1::PullImageResponse { image_ref: record.id.to_string() }))
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let wanted = reference(request.into_inner().image)?;
        self.with_images(move |store| store.remove(&wanted).map(drop)).await?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn image_fs_info(&self, _request: Request<v1::ImageFsInfoRequest>) -> Result<Response<v1::ImageFsInfoResponse>, Status> {
        let images = self.with_images(ImageStore::images_usage).await?;
        let mut containers = Usage::default();
        for layer in stats::layers(self, &self.store.containers()).await.values() {
            containers += layer.usage;
        }
        let mountpoint = self.node.images.root().to_string_lossy();
        Ok(Response::new(v1::ImageFsInfoResponse {
            image_filesystems: vec![usage(&mountpoint, &images)],
            container_filesystems: vec![usage(&mountpoint, &containers)],
        }))
    }
}
