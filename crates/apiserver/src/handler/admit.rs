//! Admission: runs the plugins over a write.

use coracle_api::ApiResult;
use coracle_api::decode::FieldValidation;
use http::Uri;
use serde_json::{Value, json};

use super::Call;
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation, Reinvocation};
use crate::request_info::{flag, query};

impl Call {
    /// What the plugins get to see; objects are filled in by the caller.
    pub(super) fn admission(&self, operation: Operation, subresource: &str, name: &str) -> AdmissionRequest {
        AdmissionRequest {
            operation,
            resource: self.row.resource.clone(),
            subresource: subresource.to_owned(),
            namespace: self.info.namespace.clone(),
            name: name.to_owned(),
            object: Value::Null,
            old_object: Value::Null,
            user: self.user.clone(),
            dry_run: self.options.dry_run,
            options: self.write_options(),
            notes: self.notes.clone(),
            reinvocation: Reinvocation::default(),
        }
    }

    /// What of `CreateOptions` and `UpdateOptions` the client asked for.
    fn write_options(&self) -> Value {
        let mut options = serde_json::Map::new();
        if !self.options.field_manager.is_empty() {
            options.insert("fieldManager".into(), self.options.field_manager.as_str().into());
        }
        if self.options.field_validation == FieldValidation::Strict {
            options.insert("fieldValidation".into(), "Strict".into());
        }
        options.into()
    }

    fn context(&self) -> AdmissionContext {
        self.context.clone()
    }

    /// The plugins that may change the object.
    pub(super) async fn admit(&self, request: &mut AdmissionRequest) -> ApiResult<()> {
        let plugins = &self.server.config.admission;
        let twice = plugins.iter().rposition(|plugin| plugin.reinvokes()).map_or(0, |last| last + 1);
        self.admit_by(&plugins[..twice], request).await?;
        if request.reinvocation.wanted {
            request.reinvocation.again = true;
            self.admit_by(&plugins[..twice], request).await?;
        }
        self.admit_by(&plugins[twice..], request).await
    }

    async fn admit_by(&self, plugins: &[Box<dyn AdmissionPlugin>], request: &mut AdmissionRequest) -> ApiResult<()> {
        let context = self.context();
        for plugin in plugins {
            if plugin.handles(request) {
                plugin.admit(request, &context).await?;
            }
        }
        Ok(())
    }

    /// The plugins that judge the final object.
    pub(super) async fn admit_final(&self, request: &AdmissionRequest) -> ApiResult<()> {
        let context = self.context();
        for plugin in &self.server.config.admission {
            if plugin.handles(request) {
                plugin.validate(request, &context).await?;
            }
        }
        Ok(())
    }

    /// Admission of a connection: the object is the subresource's options, made from the query.
    pub(super) async fn admit_connect(&self, uri: &Uri) -> ApiResult<()> {
        let resource = &self.row.resource;
        let kind = resource.subresource(&self.info.subresource).map(|subresource| subresource.kind.2.clone());
        // Logs are read, not connected to.
        let Some(kind) = kind.filter(|kind| *kind != resource.kind) else { return Ok(()) };
        let mut admission = self.admission(Operation::Connect, &self.info.subresource, &self.info.name);
        admission.object = connect_options(&kind, &self.info.rest, uri);
        admission.options = Value::Null;
        self.admit(&mut admission).await?;
        self.admit_final(&admission).await
    }

    /// Admission of a subresource that is created with a body of its own, such as an Eviction; gives what became of it.
    pub(super) async fn admit_subresource(&self, object: Value) -> ApiResult<Value> {
        let mut admission = self.admission(Operation::Create, &self.info.subresource, &self.info.name);
        admission.object = object;
        self.admit(&mut admission).await?;
        self.admit_final(&admission).await?;
        Ok(admission.object)
    }
}

/// The options of a connection as an object: `PodExecOptions` and the like.
fn connect_options(kind: &str, rest: &str, uri: &Uri) -> Value {
    let mut options = json!({ "kind": kind, "apiVersion": "v1" });
    if kind.ends_with("ProxyOptions") {
        options["path"] = if rest.is_empty() { "/".into() } else { rest.into() };
        return options;
    }
    if matches!(kind, "PodExecOptions" | "PodAttachOptions") {
        (options["stdout"], options["stderr"]) = (true.into(), true.into());
    }
    for (key, value) in query(uri) {
        match key.as_ref() {
            "stdin" | "stdout" | "stderr" | "tty" => options[key.as_ref()] = flag(&value).into(),
            "container" => options["container"] = value.as_ref().into(),
            "command" => push(&mut options["command"], value.as_ref().into()),
            "ports" => value.split(',').filter_map(|port| port.parse::<u16>().ok()).for_each(|port| {
                push(&mut options["ports"], port.into());
            }),
            _ => {}
        }
    }
    options
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_admitted_as_its_options() {
        let of = |kind, rest, uri: &str| connect_options(kind, rest, &uri.parse().unwrap());
        assert_eq!(
            of("PodExecOptions", "", "/x?command=ls&command=-l&stdin=true&stderr=false&container=c"),
            json!({ "kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "stdout": true, "stderr": false,
                "container": "c", "command": ["ls", "-l"] })
        );
        assert_eq!(
            of("PodPortForwardOptions", "", "/x?ports=80,81&ports=82&ports=x"),
            json!({ "kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": [80, 81, 82] })
        );
        let path = json!({ "kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "/a/b" });
        assert_eq!(of("ServiceProxyOptions", "/a/b", "/x"), path);
    }
}
