//! Docker's errors in the runtime's terms.

use bollard::errors::Error;

use crate::runtime::RuntimeError;

/// Translates what is true of every call: the engine is gone, or the object is.
pub(super) fn translate(what: &str, error: Error) -> RuntimeError {
    match error {
        Error::DockerResponseServerError { status_code: 404, .. } => RuntimeError::NotFound(what.into()),
        Error::DockerResponseServerError { status_code: 409, message } => RuntimeError::Conflict(message),
        Error::DockerResponseServerError { message, .. } | Error::DockerStreamError { error: message } => {
            RuntimeError::Other(message)
        }
        error if is_engine_down(&error) => RuntimeError::EngineDown(root_cause(&error)),
        error => RuntimeError::Other(error.to_string()),
    }
}

/// Whether the engine did not answer, as opposed to having refused.
pub(super) fn is_engine_down(error: &Error) -> bool {
    matches!(
        error,
        Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. }
            | Error::SocketNotFoundError(_)
            | Error::RequestTimeoutError
    )
}

/// The engine's own words when it answered with this status.
pub(super) fn refusal(error: &Error) -> Option<(u16, &str)> {
    match error {
        Error::DockerResponseServerError { status_code, message } => Some((*status_code, message)),
        _ => None,
    }
}

/// Takes "it is already so" for success: 304, and 404 when the object is to go away.
pub(super) fn ignore(statuses: &[u16], result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if refusal(&error).is_some_and(|(status, _)| statuses.contains(&status)) => Ok(()),
        result => result,
    }
}

// Errors of HTTP clients say little themselves ("client error (Connect)"); the innermost one says why.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
