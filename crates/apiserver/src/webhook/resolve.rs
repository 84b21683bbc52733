//! Where a Service is reached: one of its ready endpoints.
//!
//! The API server need not stand where cluster IPs are routed, so it goes to the endpoints themselves, as
//! upstream's does with `--enable-aggregator-routing`. EndpointSlices are asked first, then the Endpoints
//! of that name, for Services whose endpoints are written by hand.

use coracle_api::{ApiError, ApiResult};
use serde_json::Value;

use crate::storage::Storage;

/// An address and port where `port` of a Service is served.
///
/// # Errors
/// 404 without the Service; 503 without such a port, or without endpoints.
pub async fn service(storage: &Storage, namespace: &str, name: &str, port: u16) -> ApiResult<(String, u16)> {
    let service = storage.get("", "services", namespace, name).await?;
    let service = service.ok_or_else(|| ApiError::not_found("", "services", name))?;
    if service["spec"]["type"] == "ExternalName" {
        return Ok((service["spec"]["externalName"].as_str().unwrap_or_default().to_owned(), port));
    }
    let port_name = port_name(&service, port.into())?;
    let mut found = all(storage, &service, port_name).await?;
    if found.is_empty() {
        return Err(ApiError::unavailable(format!("no endpoints available for service {name:?}")));
    }
    Ok(found.swap_remove(coracle_clock::random_below(found.len())))
}

/// The name of the Service's port with that number.
pub fn port_name(service: &Value, port: u64) -> ApiResult<&str> {
    let known = list(&service["spec"]["ports"]).find(|p| p["port"] == port).ok_or_else(|| {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        ApiError::unavailable(format!("no service port {port} found for service {name:?}"))
    })?;
    Ok(known["name"].as_str().unwrap_or_default())
}

/// Every ready endpoint of a Service's port, as address and port.
pub async fn all(storage: &Storage, service: &Value, port_name: &str) -> ApiResult<Vec<(String, u16)>> {
    let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let slices = storage.list("discovery.k8s.io", "endpointslices", namespace).await?;
    let found = in_slices(&slices, name, port_name);
    if !found.is_empty() {
        return Ok(found);
    }
    let endpoints = storage.get("", "endpoints", namespace, name).await?.unwrap_or_default();
    Ok(in_subsets(&endpoints, port_name))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn numbered(ports: &Value, name: &str) -> Option<u16> {
    let port = list(ports).find(|p| p["name"].as_str().unwrap_or_default() == name)?;
    u16::try_from(port["port"].as_u64()?).ok()
}

/// The ready endpoints in a Service's EndpointSlices.
pub fn in_slices(slices: &[Value], service: &str, port_name: &str) -> Vec<(String, u16)> {
    let mine = slices.iter().filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let ports = mine.filter_map(|slice| Some((slice, numbered(&slice["ports"], port_name)?)));
    ports
        .flat_map(|(slice, port)| {
            let ready = list(&slice["endpoints"]).filter(|endpoint| endpoint["conditions"]["ready"] != false);
            ready.filter_map(move |endpoint| Some((endpoint["addresses"][0].as_str()?.to_owned(), port)))
        })
        .collect()
}

fn in_subsets(endpoints: &Value, port_name: &str) -> Vec<(String, u16)> {
    let subsets = list(&endpoints["subsets"]).filter_map(|s| Some((s, numbered(&s["ports"], port_name)?)));
    subsets
        .flat_map(|(subset, port)| {
            list(&subset["addresses"]).filter_map(move |address| Some((address["ip"].as_str()?.to_owned(), port)))
        })
        .collect()
}
