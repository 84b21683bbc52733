//! Leader election: one active instance among several, through a Lease.
//!
//! Whoever's name stands in the Lease leads, as long as it renews in time. Nobody trusts another's
//! clock: a candidate measures on its own how long the Lease has not changed. A leader, then, writes nothing once it has
//! not renewed for a while that is well shorter than that.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

/// Who runs for which Lease, and how fast.
#[derive(Clone, Debug)]
pub struct LeaderElectionConfig {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name, such as `kube-scheduler`.
    pub name: String,
    /// This candidate's name; unique among the candidates.
    pub identity: String,
    /// A Lease not renewed for so long may be taken.
    pub lease_duration: Duration,
    /// A leader that could not renew for so long steps down, and writes nothing from then on.
    pub renew_deadline: Duration,
    /// The time between attempts.
    pub retry_period: Duration,
}

impl LeaderElectionConfig {
    /// In `kube-system`; renewed every 2 s as upstream, but taken over after 11 s (upstream: 15), so that somebody leads
    /// again within 15 s of whatever happened.
    pub fn new(name: &str, identity: impl Into<String>) -> Self {
        LeaderElectionConfig {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(11),
            renew_deadline: Duration::from_secs(7),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// A candidate.
#[derive(Debug)]
pub struct LeaderElector {
    config: LeaderElectionConfig,
    api: Api<Lease>,
    /// The Lease's holder and renewal as last seen, and when that was first seen.
    observed: Option<(LeaseSpec, coracle_clock::Instant)>,
}

impl LeaderElector {
    /// A candidate over `client`.
    pub fn new(client: Client, config: LeaderElectionConfig) -> Self {
        let api = Api::namespaced(client, &config.namespace);
        LeaderElector { config, api, observed: None }
    }

    /// Waits to lead, then runs `lead` with a token that is cancelled when leadership is lost or `shutdown` comes, and
    /// with a client that writes nothing from when that is due. On shutdown the Lease is released, so that the next
    /// leader need not wait.
    pub async fn run<F, Fut>(mut self, shutdown: CancellationToken, lead: F) -> anyhow::Result<()>
    where
        F: FnOnce(Client, CancellationToken) -> Fut,
        Fut: Future<Output = anyhow::Result<()>>,
    {
        let term = loop {
            let since = coracle_clock::instant();
            if self.try_acquire().await {
                break Term(Arc::new(Mutex::new(since + self.config.renew_deadline)));
            }
            if shutdown.run_until_cancelled(coracle_clock::sleep(self.pause())).await.is_none() {
                return Ok(());
            }
        };
        tracing::info!(lease = self.config.name, identity = self.config.identity, "became leader");
        let client = fenced(self.api.clone().into_client(), term.clone());
        let leading = shutdown.child_token();
        let mut work = std::pin::pin!(lead(client, leading.clone()));
        loop {
            tokio::select! {
                biased;
                result = &mut work => {
                    self.release().await;
                    return result;
                }
                renewed = self.renew(&term) => if !renewed {
                    leading.cancel();
                    work.await?;
                    anyhow::bail!("leader election lost: lease {}/{}", self.config.namespace, self.config.name);
                }
            }
        }
    }

    /// How long a candidate rests: until the Lease may be taken, if that is soon.
    fn pause(&self) -> Duration {
        let pause = coracle_clock::jitter(self.config.retry_period, 0.2);
        let left = self.observed.as_ref().map(|(lease, since)| duration(lease).saturating_sub(since.elapsed()));
        left.filter(|left| !left.is_zero()).map_or(pause, |left| left.min(pause))
    }

    /// Renews the Lease after a while; whether that succeeded before the term was over.
    async fn renew(&mut self, term: &Term) -> bool {
        let left = term.lock().saturating_duration_since(coracle_clock::instant());
        let attempts = async {
            loop {
                coracle_clock::sleep(self.config.retry_period).await;
                let since = coracle_clock::instant();
                if self.try_acquire().await {
                    return since + self.config.renew_deadline;
                }
            }
        };
        let Ok(end) = coracle_clock::timeout(left, attempts).await else { return false };
        *term.lock() = end;
        true
    }

    /// Takes or renews the Lease if it is ours, free or expired.
    async fn try_acquire(&mut self) -> bool {
        let (patience, lease) = (self.config.renew_deadline / 2, self.config.name.clone());
        match coracle_clock::timeout(patience, self.acquire()).await {
            Ok(Ok(acquired)) => return acquired,
            Ok(Err(error)) => tracing::debug!(lease, %error, "lease not acquired"),
            Err(_) => tracing::debug!(lease, "lease not acquired: no answer"),
        }
        false
    }

    async fn acquire(&mut self) -> kube::Result<bool> {
        let now = MicroTime(coracle_clock::now());
        let seconds = i32::try_from(self.config.lease_duration.as_secs()).unwrap_or(i32::MAX);
        let Some(mut lease) = self.api.get_opt(&self.config.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.config.name.clone()), ..Default::default() },
                spec: Some(LeaseSpec {
                    holder_identity: Some(self.config.identity.clone()),
                    lease_duration_seconds: Some(seconds),
                    acquire_time: Some(now.clone()),
                    renew_time: Some(now),
                    lease_transitions: Some(0),
                    ..Default::default()
                }),
            };
            self.api.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let spec = lease.spec.get_or_insert_default();
        if self.observed.as_ref().is_none_or(|(seen, _)| seen != spec) {
            self.observed = Some((spec.clone(), coracle_clock::instant()));
        }
        let ours = spec.holder_identity.as_deref() == Some(&self.config.identity);
        let free = spec.holder_identity.as_deref().unwrap_or_default().is_empty();
        let expired = self.observed.as_ref().is_some_and(|(seen, since)| since.elapsed() >= duration(seen));
        if !(ours || free || expired) {
            return Ok(false);
        }
        if !ours {
            spec.holder_identity = Some(self.config.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
        }
        spec.lease_duration_seconds = Some(seconds);
        spec.renew_time = Some(now);
        self.api.replace(&self.config.name, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    async fn release(&self) {
        let released = async {
            let mut lease = self.api.get(&self.config.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.config.identity) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.replace(&self.config.name, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        if let Err(error) = released.await {
            tracing::debug!(lease = self.config.name, %error, "lease not released");
        }
    }
}

fn duration(lease: &LeaseSpec) -> Duration {
    Duration::from_secs(lease.lease_duration_seconds.unwrap_or_default().max(0).unsigned_abs().into())
}

/// Until when a leader surely leads.
#[derive(Clone, Debug)]
struct Term(Arc<Mutex<coracle_clock::Instant>>);

impl Term {
    fn lock(&self) -> MutexGuard<'_, coracle_clock::Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that writes only during the term. A process that was stopped for a while goes on where it was, and does not
/// know yet that another leads: it must not finish what it had begun.
fn fenced(client: Client, term: Term) -> Client {
    let namespace = client.default_namespace().to_owned();
    let send = service_fn(move |request: Request<Body>| {
        let over = request.method() != Method::GET && coracle_clock::instant() >= *term.lock();
        let client = client.clone();
        async move {
            if over {
                return Err(BoxError::from("this instance leads no longer"));
            }
            Ok(client.send(request).await?)
        }
    });
    Client::new(send, namespace)
}
