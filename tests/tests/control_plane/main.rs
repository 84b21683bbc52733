//! The control plane as clients see it: kubectl, kube-rs, the Python client, and connections by hand, over TLS against
//! the real API server, controllers and scheduler, each its own process, and a simulated node. No Docker is needed.
//!
//! A file is a topic. What a section makes it removes, or it has a namespace of its own.

use coracle_tests::parts::missing;
use coracle_tests::{Parts, specification};

mod admission;
mod aggregation;
mod audit;
mod conversion;
mod custom_resources;
mod health;
mod identity;
mod kube_rs;
mod kubectl;
mod overload;
mod policies;
mod python;

fn main() {
    let sections = [
        kubectl::discovery::SECTIONS,
        kubectl::objects::SECTIONS,
        kubectl::apply::SECTIONS,
        kubectl::workloads::SECTIONS,
        kubectl::resources::SECTIONS,
        custom_resources::SECTIONS,
        conversion::SECTIONS,
        admission::SECTIONS,
        policies::SECTIONS,
        identity::SECTIONS,
        audit::SECTIONS,
        aggregation::SECTIONS,
        health::SECTIONS,
        overload::SECTIONS,
        kube_rs::SECTIONS,
        python::SECTIONS,
    ];
    specification(&sections.concat(), missing, Parts::control_plane, Parts::report);
}
