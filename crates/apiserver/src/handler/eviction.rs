//! `POST pods/eviction`: a deletion that respects PodDisruptionBudgets.

use coracle_api::selector::Selector;
use coracle_api::{ApiError, ApiResult};
use http::Response;
use http::request::Parts;
use serde_json::{Value, json};

use super::Call;
use super::delete::{dry_run, success};
use crate::body::{Body, RequestBody};

const VIOLATED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// How many evictions may be under way that the disruption controller has not noticed.
const MAX_DISRUPTED_PODS: usize = 2000;
/// How often one that lost the race for a budget tries again.
const ATTEMPTS: usize = 20;

/// What budgets say of a pod.
#[derive(Debug)]
enum Ruling {
    /// It may go.
    Free,
    /// It may go as long as it is as it was seen; the text is the refusal of who comes too late.
    AsSeen(Option<ApiError>),
}

impl Call {
    /// Deletes the pod, if its budget lets it.
    pub(super) async fn evict(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let eviction = self.decode_subresource(parts, body).await?;
        let name = self.info.name.clone();
        let given = eviction["metadata"]["name"].as_str().unwrap_or_default();
        if !given.is_empty() && given != name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = match &eviction["deleteOptions"] {
            Value::Null => json!({}),
            options => options.clone(),
        };
        self.options.dry_run |= dry_run(&options)?;
        self.admit_subresource(eviction).await?;
        let pinned = options["preconditions"]["resourceVersion"].is_string();
        for _ in 0..ATTEMPTS {
            let entry = self.current(&name).await?.ok_or_else(|| self.not_found())?;
            let pod = self.read(&entry).await?;
            // Nothing is spent on a deletion that would be refused.
            self.check_preconditions(&name, &options["preconditions"], &pod["metadata"])?;
            let mut options = options.clone();
            let ruling = self.rule(&pod).await?;
            if let (Ruling::AsSeen(_), false) = (&ruling, pinned) {
                options["preconditions"]["resourceVersion"] = pod["metadata"]["resourceVersion"].clone();
            }
            match (self.delete_object(&name, &options).await, ruling) {
                (Err(error), Ruling::AsSeen(late)) if error.code == 409 && !pinned => match late {
                    Some(late) => return Err(late),
                    None => continue,
                },
                (deleted, _) => deleted?,
            };
            return Ok(self.answer(201, success(Value::Null).to_string()));
        }
        Err(self.conflict(&name, "the pod keeps changing"))
    }

    /// Asks the budget that covers the pod, if one does, and takes one disruption from it.
    async fn rule(&self, pod: &Value) -> ApiResult<Ruling> {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        // Pods that are over, or never began, are evicted whatever a budget says.
        if matches!(phase, "Succeeded" | "Failed") || !pod["metadata"]["deletionTimestamp"].is_null() {
            return Ok(Ruling::Free);
        }
        if phase == "Pending" {
            return Ok(Ruling::AsSeen(None));
        }
        for _ in 0..ATTEMPTS {
            let Some(budget) = self.budget(pod).await? else { return Ok(Ruling::Free) };
            let (status, name) = (&budget["status"], budget["metadata"]["name"].as_str().unwrap_or_default());
            let number = |field: &str| status[field].as_i64().unwrap_or(0);
            let unknown = ApiError::too_many_requests(VIOLATED, 10).with_cause(
                "DisruptionBudget",
                format!("The disruption budget {name} is still being processed by the server."),
            );
            // A pod that is not ready protects nobody, if the budget is met or says so.
            let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
            let healthy_enough = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
            if !ready(pod) && (always || healthy_enough) {
                return Ok(Ruling::AsSeen(Some(unknown)));
            }
            if number("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
                return Err(unknown);
            }
            let forbidden = |why| ApiError::forbidden("policy", "poddisruptionbudget", name, why);
            if number("disruptionsAllowed") < 0 {
                return Err(forbidden("pdb disruptions allowed is negative"));
            }
            if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED_PODS) {
                return Err(forbidden(
                    "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
                ));
            }
            if number("disruptionsAllowed") == 0 {
                let (needed, there) = (number("desiredHealthy"), number("currentHealthy"));
                let why = format!("The disruption budget {name} needs {needed} healthy pods and has {there} currently");
                return Err(ApiError::too_many_requests(VIOLATED, 0).with_cause("DisruptionBudget", why));
            }
            if self.options.dry_run || self.spend(&budget).await? {
                return Ok(Ruling::Free);
            }
        }
        Err(ApiError::timeout("couldn't update PodDisruptionBudget due to conflicts", 10))
    }

    /// The budget that covers the pod.
    async fn budget(&self, pod: &Value) -> ApiResult<Option<Value>> {
        let storage = &self.server.config.storage;
        let budgets = storage.list("policy", "poddisruptionbudgets", &self.info.namespace).await?;
        let mut covering = budgets.into_iter().filter(|budget| {
            let selector = &budget["spec"]["selector"];
            selector.is_object()
                && Selector::from_json(selector).is_ok_and(|selector| selector.matches(&pod["metadata"]["labels"]))
        });
        let budget = covering.next();
        match covering.next() {
            None => Ok(budget),
            Some(_) => Err(ApiError {
                reason: "",
                message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not \
                          support."
                    .into(),
                details: Value::Null,
                ..ApiError::internal("")
            }),
        }
    }

    /// Takes one disruption from a budget; false if it has changed meanwhile.
    async fn spend(&self, budget: &Value) -> ApiResult<bool> {
        let storage = &self.server.config.storage;
        let (meta, allowed) = (&budget["metadata"], budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0));
        let mut spent = budget.clone();
        spent["status"]["disruptionsAllowed"] = (allowed - 1).into();
        spent["status"]["disruptedPods"][&self.info.name] = coracle_clock::now_seconds().to_string().into();
        let expected = meta["resourceVersion"].as_str().and_then(|version| version.parse().ok()).unwrap_or(0);
        let table = storage.table();
        let row = table.find_any("policy", "poddisruptionbudgets").ok_or_else(ApiError::no_such_resource)?;
        let key = row.key(&self.info.namespace, meta["name"].as_str().unwrap_or_default());
        Ok(storage.put(&key, expected, &spent, 0).await?.is_ok())
    }
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
