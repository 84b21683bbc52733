//! Why a reconcile failed. Every failure is tried again with back-off, so few need telling apart.

/// A failed reconcile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached. Printed as its message alone, which is what
    /// upstream's events quote.
    #[error("{}", message(.0))]
    Api(#[from] kube::Error),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What a reconcile returns.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    /// The Status reason, such as `NotFound`; empty when the server did not answer.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Error::Api(kube::Error::Api(status)) => &status.reason,
            _ => "",
        }
    }

    /// Whether the refusal is because the namespace is going away, when creating in it is pointless.
    pub(crate) fn namespace_is_terminating(&self) -> bool {
        let Error::Api(kube::Error::Api(status)) = self else { return false };
        status
            .details
            .as_ref()
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
            || status.code == 403 && status.message.contains("because it is being terminated")
    }
}

/// Turns "there is no such object" into none: what is gone needs no deleting or patching.
pub(crate) trait IgnoreNotFound<T> {
    /// `Ok(None)` for 404.
    fn ignore_not_found(self) -> Result<Option<T>>;
}

impl<T> IgnoreNotFound<T> for kube::Result<T> {
    fn ignore_not_found(self) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
