//! Images: looked up, pulled, listed and removed.

use bollard::BollardRequest;
use bollard::auth::DockerCredentials;
use bollard::query_parameters::{CreateImageOptions, ListImagesOptions, RemoveImageOptions};
use futures::TryStreamExt;
use http::{HeaderName, HeaderValue};

use super::DockerRuntime;
use super::error::{refusal, translate};
use crate::runtime::{ImageInfo, ImageReference, ImageUser, RegistryAuth, Result, RuntimeError};

impl DockerRuntime {
    pub(super) async fn pull_image_impl(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<String> {
        let reference = ImageReference::parse(image)?.to_pull();
        let options = CreateImageOptions { from_image: Some(reference.clone()), ..Default::default() };
        let credentials = auth.map(|auth| DockerCredentials {
            username: Some(auth.username.clone()),
            password: Some(auth.password.clone()),
            serveraddress: Some(auth.server.clone()).filter(|server| !server.is_empty()),
            ..Default::default()
        });
        let docker = self.patient.clone().with_request_modifier(url_safe_auth);
        let progress = docker.create_image(Some(options), None, credentials);
        let pulled = progress.try_for_each(|_| async { Ok(()) }).await;
        pulled.map_err(|error| match translate(&reference, error) {
            down @ RuntimeError::EngineDown(_) => down,
            // Docker answers 404 for what the registry does not have or does not show.
            RuntimeError::NotFound(_) => RuntimeError::ImagePull(format!("{reference}: not found")),
            other => RuntimeError::ImagePull(other.to_string()),
        })?;
        match self.image_status_impl(&reference).await? {
            Some(image) => Ok(image.id),
            None => Err(RuntimeError::ImagePull(format!("{reference}: pulled, but not there"))),
        }
    }

    pub(super) async fn image_status_impl(&self, image: &str) -> Result<Option<ImageInfo>> {
        // Ids are looked up as they are; whatever else must be a reference.
        if !is_id(image) {
            ImageReference::parse(image)?;
        }
        match self.docker.inspect_image(image).await {
            Ok(found) => Ok(Some(ImageInfo {
                id: found.id.unwrap_or_default(),
                tags: found.repo_tags.unwrap_or_default(),
                digests: found.repo_digests.unwrap_or_default(),
                size_bytes: found.size.and_then(|size| size.try_into().ok()).unwrap_or_default(),
                user: user(&found.config.and_then(|config| config.user).unwrap_or_default()),
            })),
            Err(error) => match refusal(&error) {
                Some((404, _)) => Ok(None),
                Some((400, _)) => Err(RuntimeError::InvalidImageName(image.into())),
                _ => Err(translate(image, error)),
            },
        }
    }

    pub(super) async fn list_images_impl(&self) -> Result<Vec<ImageInfo>> {
        let options = ListImagesOptions { digests: true, ..Default::default() };
        let images = self.docker.list_images(Some(options)).await.map_err(|error| translate("images", error))?;
        // Untagged images carry the placeholder `<none>`.
        let named = |names: Vec<String>| names.into_iter().filter(|name| !name.contains("<none>")).collect();
        let info = |image: bollard::models::ImageSummary| ImageInfo {
            id: image.id,
            tags: named(image.repo_tags),
            digests: named(image.repo_digests),
            size_bytes: image.size.try_into().unwrap_or_default(),
            user: ImageUser::Uid(0),
        };
        Ok(images.into_iter().map(info).collect())
    }

    pub(super) async fn remove_image_impl(&self, image: &str) -> Result<()> {
        match self.docker.remove_image(image, None::<RemoveImageOptions>, None).await {
            Ok(_) => Ok(()),
            Err(error) if refusal(&error).is_some_and(|(status, _)| status == 404) => Ok(()),
            Err(error) => Err(translate(image, error)),
        }
    }

    /// How a pod's status names an image: by repository digest where the image came from a registry, else by id.
    pub(super) async fn image_name(&self, image_id: &str) -> String {
        let known = self.image_names.lock().ok().and_then(|names| names.get(image_id).cloned());
        if let Some(name) = known {
            return name;
        }
        // Not worth failing for: the id is a name too. The image may be gone while its containers remain.
        let Ok(Some(image)) = self.image_status_impl(image_id).await else { return image_id.into() };
        let name = image.digests.into_iter().next().unwrap_or(image.id);
        if let Ok(mut names) = self.image_names.lock() {
            names.insert(image_id.into(), name.clone());
        }
        name
    }
}

/// Engines decode credentials from the URL-safe form of base64; the client library writes the other.
fn url_safe_auth(mut request: BollardRequest) -> BollardRequest {
    const REGISTRY_AUTH: HeaderName = HeaderName::from_static("x-registry-auth");
    if let Some(auth) = request.headers_mut().get_mut(REGISTRY_AUTH) {
        let url_safe = |byte: &u8| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        };
        let bytes: Vec<u8> = auth.as_bytes().iter().map(url_safe).collect();
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            *auth = value;
        }
    }
    request
}

fn is_id(image: &str) -> bool {
    let hex = image.strip_prefix("sha256:").unwrap_or(image);
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An image's user without its group.
fn user(user: &str) -> ImageUser {
    let user = user.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(uid) => ImageUser::Uid(uid),
        Err(_) if user.is_empty() => ImageUser::Uid(0),
        Err(_) => ImageUser::Name(user.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_user_is_a_number_or_a_name() {
        assert_eq!(user(""), ImageUser::Uid(0));
        assert_eq!(user("1000:1000"), ImageUser::Uid(1000));
        assert_eq!(user("www-data:root"), ImageUser::Name("www-data".into()));
    }
}
