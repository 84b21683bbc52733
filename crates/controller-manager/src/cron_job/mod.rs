//! CronJob: a Job whenever the schedule says so.
//!
//! Watches CronJobs and Jobs; a Job's change is the key of its CronJob, which also comes back when its next time
//! has come. Each look notes which Jobs have ended, starts the one that is due ([`plan`]) and deletes finished ones
//! beyond the history's limits. A Job is named after its scheduled time, so that no crash makes two of one.

mod plan;

use std::sync::Arc;

use coracle_client::{
    EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, controlled_by, controller_of, object_reference,
};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::claim;
use crate::context::{Context, enqueue_changes};
use crate::error::{Error, IgnoreNotFound, Result};

const NAME: &str = "cronjob-controller";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = CronJobController {
        cron_jobs: context.informer(),
        jobs: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
    };
    claim::index_by_controller(&controller.jobs);
    enqueue_changes(&controller.cron_jobs, &queue);
    let to = queue.clone();
    controller.jobs.on_change(move |change| {
        if let Some(owner) = controller_of(&change.object().metadata).filter(|owner| owner.kind == "CronJob") {
            to.add(ObjectKey::new(change.object().namespace().unwrap_or_default(), &owner.name));
        }
    });
    controller.cron_jobs.wait_for_sync().await;
    controller.jobs.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

struct CronJobController {
    cron_jobs: Informer<CronJob>,
    jobs: Informer<Job>,
    client: Client,
    recorder: EventRecorder,
}

impl CronJobController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(cron_job) = self.cron_jobs.get(&key) else { return Ok(Requeue::Never) };
        let uid = cron_job.uid().unwrap_or_default();
        let jobs: Vec<_> = claim::dependents(&self.jobs, &uid);
        let mut status = cron_job.status.clone().unwrap_or_default();
        for tell in plan::observe(&mut status, &jobs) {
            self.tell(&cron_job, tell);
        }
        self.forget_missing(&cron_job, &mut status, &jobs).await?;
        let mut again = None;
        if cron_job.metadata.deletion_timestamp.is_none() {
            let step = plan::step(&cron_job, &status, coracle_clock::now());
            again = step.again;
            let started = self.execute(&cron_job, &mut status, step).await;
            for job in plan::outdated(&cron_job, &jobs) {
                self.delete(&cron_job, &job.name_any()).await?;
            }
            if let Err(error) = started {
                self.write_status(&cron_job, status).await?;
                return Err(error);
            }
        }
        self.write_status(&cron_job, status).await?;
        Ok(again.map_or(Requeue::Never, Requeue::After))
    }

    fn jobs_api(&self, cron_job: &CronJob) -> Api<Job> {
        Api::namespaced(self.client.clone(), &cron_job.namespace().unwrap_or_default())
    }

    fn tell(&self, cron_job: &CronJob, (kind, reason, message): plan::Tell) {
        self.recorder.event(&object_reference(cron_job), kind, reason, message);
    }

    /// Jobs that somebody deleted are active no more. The cache may not know of the newest: the server is asked.
    async fn forget_missing(&self, cron_job: &CronJob, status: &mut CronJobStatus, jobs: &[Arc<Job>]) -> Result<()> {
        for reference in status.active.clone().unwrap_or_default() {
            if jobs.iter().any(|job| job.uid() == reference.uid) {
                continue;
            }
            let name = reference.name.clone().unwrap_or_default();
            let found = self.jobs_api(cron_job).get_opt(&name).await?;
            if found.is_none_or(|job| job.uid() != reference.uid) {
                status.active.iter_mut().for_each(|active| active.retain(|other| other.uid != reference.uid));
                self.tell(cron_job, (EventType::Normal, "MissingJob", format!("Active job went missing: {name}")));
            }
        }
        Ok(())
    }

    async fn execute(&self, cron_job: &Arc<CronJob>, status: &mut CronJobStatus, step: plan::Step) -> Result<()> {
        if let Some(tell) = step.tell {
            self.tell(cron_job, tell);
        }
        let Some(scheduled) = step.start else { return Ok(()) };
        if step.replace {
            for reference in status.active.take().unwrap_or_default() {
                self.delete(cron_job, reference.name.as_deref().unwrap_or_default()).await?;
            }
        }
        let wanted = plan::new_job(cron_job, scheduled);
        let api = self.jobs_api(cron_job);
        let job = match api.create(&PostParams::default(), &wanted).await.map_err(Error::from) {
            Ok(job) => {
                let message = format!("Created job {}", job.name_any());
                self.tell(cron_job, (EventType::Normal, "SuccessfulCreate", message));
                job
            }
            Err(error) if error.namespace_is_terminating() => return Err(error),
            // Made before a crash that kept the status from being written; or somebody else's, who sees to it.
            Err(error) if error.reason() == "AlreadyExists" => {
                let Some(job) = api.get_opt(&wanted.name_any()).await? else { return Err(error) };
                if !controlled_by(&job.metadata, &cron_job.uid().unwrap_or_default()) {
                    return Ok(());
                }
                job
            }
            Err(error) => {
                let message = format!("Error creating job: {error}");
                self.tell(cron_job, (EventType::Warning, "FailedCreate", message));
                return Err(error);
            }
        };
        let active = status.active.get_or_insert_default();
        if !active.iter().any(|reference| reference.uid == job.uid()) {
            active.push(plan::reference(&job));
        }
        status.last_schedule_time = Some(plan::time(scheduled));
        Ok(())
    }

    async fn delete(&self, cron_job: &CronJob, name: &str) -> Result<()> {
        let deleted = self.jobs_api(cron_job).delete(name, &DeleteParams::background()).await;
        match deleted.ignore_not_found() {
            Ok(Some(_)) => self.tell(cron_job, (EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}"))),
            Ok(None) => {}
            Err(error) => {
                self.tell(cron_job, (EventType::Warning, "FailedDelete", format!("Deleted job: {error}")));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn write_status(&self, cron_job: &CronJob, mut status: CronJobStatus) -> Result<()> {
        status.active = status.active.filter(|active| !active.is_empty());
        if cron_job.status.as_ref().unwrap_or(&CronJobStatus::default()) == &status {
            return Ok(());
        }
        let mut changed = cron_job.clone();
        changed.status = Some(status);
        let api: Api<CronJob> = Api::namespaced(self.client.clone(), &cron_job.namespace().unwrap_or_default());
        api.replace_status(&cron_job.name_any(), &PostParams::default(), &changed).await?;
        Ok(())
    }
}
