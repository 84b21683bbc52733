//! `--enable-priority-and-fairness=false`: so many reading and so many writing requests at once, and no more.

use std::sync::Arc;

use coracle_api::ApiResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{lasts, too_many};
use crate::hooks::UserInfo;
use crate::request_info::RequestInfo;

/// The two limits.
#[derive(Debug)]
pub struct InFlight {
    reading: Option<Arc<Semaphore>>,
    writing: Option<Arc<Semaphore>>,
}

impl InFlight {
    /// With so many reading and so many writing requests; 0 is any number.
    pub fn new(reading: u32, writing: u32) -> Self {
        let limit = |limit: u32| (limit > 0).then(|| Arc::new(Semaphore::new(limit as usize)));
        InFlight { reading: limit(reading), writing: limit(writing) }
    }

    /// A place for a request; none if it needs none.
    ///
    /// # Errors
    /// 429 if there is none left. Administrators come in all the same.
    pub fn admit(&self, user: &UserInfo, info: &RequestInfo) -> ApiResult<Option<OwnedSemaphorePermit>> {
        if lasts(info) || info.verb == "watch" {
            return Ok(None);
        }
        let reads = matches!(info.verb.as_str(), "get" | "list");
        let Some(limit) = (if reads { &self.reading } else { &self.writing }) else { return Ok(None) };
        match limit.clone().try_acquire_owned() {
            Ok(place) => Ok(Some(place)),
            Err(_) if user.in_group("system:masters") => Ok(None),
            Err(_) => Err(too_many()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_too_many_is_turned_away() {
        let limits = InFlight::new(1, 0);
        let request = |method: &str, url: &str| RequestInfo::parse(&method.parse().unwrap(), &url.parse().unwrap());
        let alice = UserInfo::new("alice", &[]);
        let list = request("GET", "/api/v1/pods");
        let first = limits.admit(&alice, &list).unwrap();
        assert!(first.is_some());
        assert_eq!(limits.admit(&alice, &list).unwrap_err().code, 429);
        assert!(limits.admit(&UserInfo::new("ada", &["system:masters"]), &list).is_ok());
        assert!(limits.admit(&alice, &request("GET", "/api/v1/pods?watch=1")).is_ok());
        assert!(limits.admit(&alice, &request("POST", "/api/v1/namespaces")).is_ok());
        drop(first);
        assert!(limits.admit(&alice, &list).unwrap().is_some());
    }
}
