//! Priority and fairness: whose requests come under what, and what becomes of those that are too many.

use coracle_tests::{Parts, Section, eventually, sections};

use crate::kubectl::{each, has};

pub const SECTIONS: &[Section<Parts>] =
    sections![flow_schemas_and_levels_are_objects, a_flood_is_told_to_come_again_and_others_do_not_notice];

fn flow_schemas_and_levels_are_objects(parts: &Parts) {
    each(parts, "flows", |kubectl, _| {
        let schemas = kubectl.ok("get flowschemas");
        has(&schemas, &["PRIORITYLEVEL", "MATCHINGPRECEDENCE", "DISTINGUISHERMETHOD", "MISSINGPL"]);
        let row = |name: &str| {
            let row = schemas.lines().find(|line| line.starts_with(&format!("{name} ")));
            row.unwrap_or_else(|| panic!("no {name} in {schemas}"))
                .split_whitespace()
                .map(str::to_owned)
                .take(4)
                .collect::<Vec<_>>()
        };
        assert_eq!(row("exempt"), ["exempt", "exempt", "1", "<none>"]);
        assert_eq!(row("service-accounts"), ["service-accounts", "workload-low", "9000", "ByUser"]);
        has(
            &kubectl.ok("get prioritylevelconfigurations"),
            &["NOMINALCONCURRENCYSHARES", "QUEUES", "HANDSIZE", "QUEUELENGTHLIMIT", "catch-all", "workload-high"],
        );
        has(&kubectl.ok("describe prioritylevelconfiguration global-default"), &["Queuing:", "Hand Size:"]);
    });
}

/// A level with a handful of seats and no queue, and that visitors come under it.
const NARROW: &str = "
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: narrow}
spec: {type: Limited, limited: {nominalConcurrencyShares: 1, borrowingLimitPercent: 0, limitResponse: {type: Reject}}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: narrow}
spec:
  priorityLevelConfiguration: {name: narrow}
  matchingPrecedence: 50
  rules:
  - subjects: [{kind: User, user: {name: vera}}]
    resourceRules: [{verbs: ['*'], apiGroups: ['*'], resources: ['*'], namespaces: ['*'], clusterScope: true}]
";

fn a_flood_is_told_to_come_again_and_others_do_not_notice(parts: &Parts) {
    let admin = parts.kubectl("admin");
    admin.ok("create rolebinding flood --clusterrole=edit --user=vera");
    admin.apply(NARROW);
    let maps = "/api/v1/namespaces/default/configmaps";
    let list = || parts.connect(None).get(maps, "Authorization: Bearer visitor\r\n");
    assert_eq!(list().status, 200);
    // Writes whose bodies do not come hold their seats.
    let head = format!(
        "POST {maps} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer visitor\r\nContent-Length: 100\r\n\
         Content-Type: application/json\r\n\r\n{{"
    );
    let flood: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = parts.connect(None);
            connection.send(&head);
            connection
        })
        .collect();
    eventually("there is no seat left", 10, || list().status == 429);
    let refused = list();
    assert_eq!(refused.header("retry-after"), Some("1"));
    has(&refused.body, &["Too many requests, please try again later.", "\"reason\":\"TooManyRequests\""]);
    admin.ok("get configmaps");
    has(
        &admin.ok("get --raw /metrics"),
        &["rejected_requests_total{flow_schema=\"narrow\",priority_level=\"narrow\",reason=\"concurrency-limit\"}"],
    );
    drop(flood);
    eventually("the seats are free again", 10, || list().status == 200);
    admin.ok("delete flowschema,prioritylevelconfiguration narrow");
    admin.ok("delete rolebinding flood");
}
