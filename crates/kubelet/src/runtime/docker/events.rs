//! Events: the engine tells when containers start and end, so the kubelet need not look all the time.

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures::stream::BoxStream;
use futures::{StreamExt, future, stream};

use super::DockerRuntime;
use super::error::translate;
use super::labels::Identity;
use crate::runtime::{ContainerEvent, ContainerEventKind, Result, RuntimeError};

/// Docker's names of what the kubelet wants to hear of.
const ACTIONS: [(&str, ContainerEventKind); 4] = [
    ("start", ContainerEventKind::Started),
    ("die", ContainerEventKind::Died),
    ("oom", ContainerEventKind::Oom),
    ("destroy", ContainerEventKind::Destroyed),
];

impl DockerRuntime {
    pub(super) async fn events_impl(&self) -> Result<BoxStream<'static, Result<ContainerEvent>>> {
        // The request is sent when the stream is first polled; naming the present makes up for it.
        let since = coracle_clock::now();
        self.docker.ping().await.map_err(|error| translate("docker", error))?;
        let filters = [
            ("type", vec!["container".to_string()]),
            ("label", self.owner.filter(None)),
            ("event", ACTIONS.iter().map(|(action, _)| action.to_string()).collect()),
        ];
        let options = EventsOptions {
            since: Some(format!("{}.{:09}", since.as_second(), since.subsec_nanosecond())),
            until: None,
            filters: Some(filters.into_iter().map(|(name, values)| (name.to_string(), values)).collect()),
        };
        let events = self.patient.events(Some(options)).filter_map(|event| {
            future::ready(match event {
                Ok(message) => translate_event(message).map(Ok),
                Err(error) => Some(Err(RuntimeError::EngineDown(error.to_string()))),
            })
        });
        let ended = stream::once(future::ready(Err(RuntimeError::EngineDown("the events ended".into()))));
        // Nothing follows the first error.
        let events = events.chain(ended).scan(false, |failed, event: Result<ContainerEvent>| {
            let over = std::mem::replace(failed, event.is_err());
            future::ready((!over).then_some(event))
        });
        Ok(events.boxed())
    }
}

fn translate_event(message: EventMessage) -> Option<ContainerEvent> {
    let action = message.action?;
    let (_, kind) = ACTIONS.into_iter().find(|(name, _)| *name == action)?;
    let actor = message.actor?;
    // Docker mixes labels with attributes of its own.
    let attributes = actor.attributes.unwrap_or_default();
    let exit_code = attributes.get("exitCode").and_then(|code| code.parse().ok());
    let identity = Identity::read(attributes);
    Some(ContainerEvent {
        id: actor.id?,
        pod: identity.pod,
        container: identity.container,
        kind,
        exit_code: exit_code.filter(|_| kind == ContainerEventKind::Died),
    })
}
