//! Field ownership of a request's object, in the request's version and in all others that owners wrote it in.
//!
//! Who owns what is found out by [pure functions](coracle_api::managed_fields) that ask for an object in another version
//! when they need it. A webhook's answer takes time: what is not known yet is noted as wanted, and whoever asked is asked
//! again when it [is there](Call::learn).

use std::cell::RefCell;
use std::mem;
use std::sync::Arc;

use coracle_api::managed_fields::{self, Manager, Typing, Versions};
use coracle_api::schema::type_of;
use coracle_api::{ApiResult, Resource};
use serde_json::Value;

use super::Call;
use crate::storage::{ResourceTable, convert};

/// The schema of kinds that have none.
static UNKNOWN: Value = Value::Null;

/// Objects in versions into which a webhook brings them.
#[derive(Debug, Default)]
pub(super) struct Views {
    /// An object, and what it is in another version.
    known: Vec<(Value, Value)>,
    wanted: Wanted,
}

type Wanted = Vec<(Value, Arc<Resource>)>;

/// The types of a kind's fields.
pub(crate) fn typing(resource: &Resource) -> Typing<'_> {
    let custom = resource.custom.as_ref().map_or(&UNKNOWN, |custom| &custom.document);
    type_of(&resource.definition).map_or(Typing::Custom(custom), Typing::Known)
}

impl Call {
    fn field_manager(&self) -> Manager<'_> {
        let split = self.row.resource.subresource("status").is_some();
        Manager { name: &self.manager, subresource: &self.info.subresource, split }
    }

    /// Asks about ownership with the kind's versions at hand.
    fn owning<T>(&mut self, ask: impl FnOnce(&Call, Versions<'_>) -> T) -> T {
        let (table, wanted) = (self.server.config.storage.table(), RefCell::default());
        let view = |object: &Value, version: &str| self.view(&table, object, version, &wanted);
        let answer = ask(self, Versions { typing: typing(&self.row.resource), view: &view });
        self.views.wanted.append(&mut wanted.into_inner());
        answer
    }

    /// An object in another version; as it is, if that is wanted first.
    fn view<'a>(
        &self,
        table: &'a ResourceTable,
        object: &Value,
        version: &str,
        wanted: &RefCell<Wanted>,
    ) -> Option<(Value, Typing<'a>)> {
        let own = &self.row.resource;
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let other =
            table.rows().iter().map(|row| &row.resource).find(|other| {
                (other.group.as_str(), other.version.as_str(), &other.kind) == (group, version, &own.kind)
            })?;
        let api_version = other.api_version();
        let mut view = object.clone();
        if other.custom.as_ref().is_none_or(|kind| kind.webhook.is_none()) {
            convert::to(&mut view, other);
        } else if let Some((_, known)) =
            self.views.known.iter().find(|(of, known)| known["apiVersion"] == api_version && of == object)
        {
            view = known.clone();
        } else {
            wanted.borrow_mut().push((object.clone(), other.clone()));
        }
        Some((view, typing(other)))
    }

    /// Has converted what was wanted. Whether there was anything, so that what was found out must be found out anew.
    pub(super) async fn learn(&mut self) -> ApiResult<bool> {
        let wanted = mem::take(&mut self.views.wanted);
        for (object, version) in &wanted {
            let view = self.server.config.webhooks.convert_one(object.clone(), version).await?;
            self.views.known.push((object.clone(), view));
        }
        Ok(!wanted.is_empty())
    }

    /// The object that results from applying a configuration.
    pub(super) fn merged(&mut self, live: Option<&Value>, config: &Value) -> ApiResult<Value> {
        self.owning(|call, versions| {
            managed_fields::apply(live, config, versions, call.field_manager(), call.options.force == Some(true))
        })
    }

    /// Records who changed what.
    pub(super) fn track(&mut self, new: &mut Value, old: Option<&Value>) {
        self.owning(|call, versions| managed_fields::track_update(old, new, versions, call.field_manager()));
    }
}
