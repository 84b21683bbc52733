//! The language: what expressions give, and how they are refused.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use coracle_cel::{Decl, Env, Error, Meter, PER_CALL_LIMIT, Type, Value};
use serde_json::{Value as Json, json};

fn run(expression: &str, self_value: &Json, schema: Option<&Json>) -> Result<Value, String> {
    let decl = schema.map_or_else(|| Decl::plain(Type::Dyn), |schema| Decl::from_schema(schema, false).unwrap());
    let program = Env::default().with("self", decl.clone()).compile(expression).map_err(|error| error.to_string())?;
    let variables = BTreeMap::from([("self", Value::typed(self_value, &decl))]);
    program.evaluate(&variables, &Meter::new(PER_CALL_LIMIT)).map_err(|error| error.to_string())
}

#[track_caller]
fn holds(expressions: &[&str]) {
    for expression in expressions {
        assert_eq!(run(expression, &Json::Null, None), Ok(Value::Bool(true)), "{expression}");
    }
}

#[track_caller]
fn fails(expression: &str, message: &str) {
    let error = run(expression, &Json::Null, None).unwrap_err();
    assert!(error.contains(message), "{expression}: {error}");
}

#[test]
fn operators_compute_and_compare() {
    holds(&[
        "1 + 2 * 3 == 7 && 7 / 2 == 3 && 7 % 4 == 3 && -(3) == 0 - 3",
        "1.5 + 2.5 == 4.0 && 10u - 3u == 7u",
        "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab' && [1] + [2] == [1, 2]",
        "1 < 2 && 'a' < 'b' && 1 < 2.5 && 3u > 2 && dyn(1) == dyn(1.0) && dyn(-1.5) < dyn(-1)",
        "true || 1 / 0 > 1",
        "1 / 0 > 1 || true",
        "!(false && 1 / 0 > 1) && !(1 / 0 > 1 && false)",
        "(1 > 2 ? 'a' : 'b') == 'b'",
        "2 in [1, 2] && 'a' in {'a': 1} && !(3 in [1, 2])",
        "size('héllo') == 5 && [1, 2].size() == 2 && size({'a': 1}) == 1",
        "{'a': [1, 2]}.a[1] == 2 && {1: 'x'}[1] == 'x' && [[1]] != [[2]]",
        "type(1) == int && type('a') == string && type([]) == list && type(null) == null_type",
        "int('42') == 42 && string(1.5) == '1.5' && double('2.5') == 2.5 && int(2.9) == 2 && string(true) == 'true'",
        "\"tab\\t\" == 'tab\\t' && r'\\d' == '\\\\d' && '''a'b''' == \"a'b\"",
        "null == null && has({'a': null}.a) && !has({'a': 1}.b)",
    ]);
    fails("1 / 0 == 1", "division by zero");
    fails("9223372036854775807 + 1 > 0", "integer overflow");
    fails("[1][3] == 1", "index out of bounds: 3");
    fails("{'a': 1}.b == 1", "no such key: b");
    fails("dyn(1) + dyn('a') == 1", "no such overload");
}

#[test]
fn macros_go_over_lists_and_maps() {
    holds(&[
        "[1, 2, 3].all(x, x > 0) && [1, 2].exists(x, x == 2) && [1, 2].exists_one(x, x == 2)",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6] && [1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "[1, 2, 3].filter(x, x > 1) == [2, 3] && {'a': 1}.filter(k, k == 'a') == ['a']",
        "{'a': 1, 'b': 2}.all(k, k in ['a', 'b']) && [].all(x, false) && ![].exists(x, true)",
        "[0, 1].exists(x, 1 / x == 1) && ![0, 2].all(x, 1 / x == 1)",
        "[5, 6].all(i, v, v == i + 5) && {'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[1, 2].transformList(i, v, i + v) == [1, 3] && [1, 2].transformList(i, v, i > 0, v) == [2]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && {'a': 'b'}.transformMapEntry(k, v, {v: k}) == {'b': 'a'}",
        "cel.bind(x, 3, x * x) == 9 && [[1, 2], [3]].all(l, l.all(x, x > 0))",
    ]);
    fails("[0].all(x, 1 / x == 1)", "division by zero");
}

#[test]
fn optional_values_chain() {
    holds(&[
        "!{'a': 1}.?b.hasValue() && {'a': 1}.?a.value() == 1 && {'a': {}}.?a.b.c.orValue(5) == 5",
        "[1, 2][?5].orValue(7) == 7 && optional.of(1).or(optional.of(2)).value() == 1",
        "optional.of(2).optMap(x, x * 2).value() == 4 && !optional.none().hasValue()",
        "[1, ?optional.none()] == [1] && {?'a': optional.of(1)} == {'a': 1} && optional.ofNonZeroValue('') == optional.none()",
    ]);
    fails("optional.none().value() == 1", "optional.none() dereference");
}

#[test]
fn declared_types_are_checked() {
    let schema = json!({ "type": "object", "properties": {
        "count": { "type": "integer" }, "rate": { "type": "number" }, "name": { "type": "string" },
        "since": { "type": "string", "format": "date-time" }, "wait": { "type": "string", "format": "duration" },
        "data": { "type": "string", "format": "byte" }, "port": { "x-kubernetes-int-or-string": true },
        "if": { "type": "string" }, "a-b.c/d": { "type": "string" }, "tags": { "type": "array", "items": { "type": "string" },
            "x-kubernetes-list-type": "set" },
        "items": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": { "type": "object", "properties": { "k": { "type": "string" }, "v": { "type": "integer" } } } },
        "labels": { "type": "object", "additionalProperties": { "type": "string" } } } });
    let value = json!({ "count": 3, "rate": 2, "name": "x", "since": "2024-01-02T03:04:05Z", "wait": "1h30m",
        "data": "aGk=", "port": "http", "if": "yes", "a-b.c/d": "odd", "tags": ["a", "b"],
        "items": [{ "k": "a", "v": 1 }, { "k": "b", "v": 2 }], "labels": { "x": "y" } });
    for expression in [
        "self.count == 3 && self.rate == 2.0 && self.name == 'x'",
        "self.since.getFullYear() == 2024 && self.since + duration('1h') == timestamp('2024-01-02T04:04:05Z')",
        "self.wait > duration('1h') && self.wait.getMinutes() == 90 && string(self.wait) == '5400s'",
        "self.data == b'hi'",
        "self.port == 'http' && type(self.port) == string && (type(self.port) == int ? self.port < 5 : true)",
        "self.__if__ == 'yes' && self.a__dash__b__dot__c__slash__d == 'odd' && self.`a-b.c/d` == 'odd'",
        "self.tags == ['b', 'a'] && self.tags + ['a', 'c'] == ['a', 'b', 'c']",
        "self.items == [self.items[1], self.items[0]] && self.labels['x'] == 'y' && self.labels.x == 'y'",
        "self.items.all(i, i.v > 0) && !has(self.labels.z)",
    ] {
        assert_eq!(run(expression, &value, Some(&schema)), Ok(Value::Bool(true)), "{expression}");
    }
    for (expression, message) in [
        (
            "self.nope == 1",
            "compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope == 1\n | ....^",
        ),
        ("self.count == other", "ERROR: <input>:1:15: undeclared reference to 'other' (in container '')"),
        ("self.count == 'x'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.name.size(1) == 1", "found no matching overload for 'size' applied to 'string.(int)'"),
        ("self.count.x", "type 'int' does not support field selection"),
        ("self.count.all(x, true)", "expression of type 'int' cannot be range of a comprehension"),
        ("has(self.nope)", "undefined field 'nope'"),
        ("['a', 1] == []", "expected type 'string' but found 'int'"),
        ("nope(1)", "undeclared reference to 'nope' (in container '')"),
        ("self.count ==", "Syntax error: mismatched input '<EOF>'"),
    ] {
        let error = run(expression, &value, Some(&schema)).unwrap_err();
        assert!(error.contains(message), "{expression}: {error}");
    }
}

#[test]
fn libraries_answer_as_kubernetes_does() {
    holds(&[
        // lists
        "[1, 2].isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1 && ['a', 'b'].max() == 'b' && [1.0, 2.0].sum() == 3.0",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && [1].indexOf(5) == -1",
        // strings
        "'hello'.contains('ell') && 'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'a,b'.split(',') == ['a', 'b']",
        "'TacoCat'.lowerAscii() == 'tacocat' && 'héllo'.substring(1, 3) == 'él' && 'héllo'.indexOf('l') == 2",
        "'a-b-a'.replace('a', 'x') == 'x-b-x' && 'a-b-a'.replace('a', 'x', 1) == 'x-b-a' && ' x '.trim() == 'x'",
        "['a', 'b'].join('-') == 'a-b' && 'abc'.charAt(1) == 'b' && 'a b c'.lastIndexOf(' ') == 3",
        "'%s is %d, %.2f%%'.format(['x', 3, 1.5]) == 'x is 3, 1.50%' && '%x'.format([255]) == 'ff'",
        // regular expressions
        "'abc123'.matches('^[a-z]+[0-9]+$') && 'abc123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        // URLs
        "url('https://user@example.com:8080/a%20b?x=1&x=2').getHost() == 'example.com:8080'",
        "url('https://example.com/a').getScheme() == 'https' && url('/abs/path').getHostname() == '' && isURL('/x')",
        "url('https://[::1]:80/').getHostname() == '::1' && url('http://x/?k=a&k=b').getQuery()['k'] == ['a', 'b']",
        "!isURL('../relative') && !isURL('example.com') && url('https://x:81').getPort() == '81'",
        // quantities
        "quantity('1.5Gi').isGreaterThan(quantity('1G')) && isQuantity('100m') && !isQuantity('x')",
        "quantity('2k').asInteger() == 2000 && quantity('50k').add(quantity('20k')) == quantity('70k')",
        "quantity('1').sub(1).sign() == 0 && quantity('500m').asApproximateFloat() == 0.5 && !quantity('500m').isInteger()",
        "quantity('1').compareTo(quantity('2')) == -1",
        // addresses
        "ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && isIP('1.2.3.4') && !isIP('1.2.3') && ip.isCanonical('::1')",
        "cidr('192.168.0.0/16').containsIP('192.168.1.1') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "cidr('10.0.0.7/8').masked() == cidr('10.0.0.0/8') && cidr('10.0.0.0/8').prefixLength() == 8 && isCIDR('::/0')",
        "string(ip('1.2.3.4')) == '1.2.3.4' && cidr('10.0.0.0/8').ip() == ip('10.0.0.0')",
        // formats, versions
        "!format.dns1123Label().validate('my-name').hasValue() && format.dns1123Label().validate('My_Name').hasValue()",
        "format.named('uuid').value().validate('nope').hasValue() && !format.named('nope').hasValue()",
        "semver('1.2.3').major() == 1 && semver('1.0.0-alpha').isLessThan(semver('1.0.0')) && isSemver('1.0.0') && !isSemver('v1.0')",
        "semver('v1.2', true).minor() == 2 && semver('1.2.3').compareTo(semver('1.10.0')) == -1",
        // sets
        "sets.contains([1, 2, 3], [1, 2]) && sets.equivalent([1, 2], [2, 1]) && sets.intersects([1], [1, 2])",
        // time
        "timestamp('2024-02-29T12:30:00Z').getMonth() == 1 && timestamp('2024-02-29T23:30:00Z').getHours('+01:00') == 0",
        "duration('90s') == duration('1m30s') && timestamp('2024-01-01T00:00:00Z') - timestamp('2023-12-31T00:00:00Z') == duration('24h')",
        "math.greatest(1, 2) == 2 && math.least([3, 1]) == 1 && jsonpatch.escapeKey('k8s.io/x~y') == 'k8s.io~1x~0y'",
    ]);
    fails("quantity('x') == quantity('1')", "quantities must match the regular expression");
    fails("'x'.matches('(') ", "error parsing regexp");
    fails(
        "url('nope').getHost() == ''",
        "URL parse error during conversion from string: parse \"nope\": invalid URI for request",
    );
}

#[test]
fn what_runs_away_is_stopped() {
    let numbers = format!("[{}]", vec!["1"; 100].join(","));
    let nested = format!("{numbers}.all(a, {numbers}.all(b, {numbers}.all(c, {numbers}.all(d, a + b + c + d > 0))))");
    for expression in [
        nested.as_str(),
        // Values shared so often that nobody could compare them.
        "cel.bind(a, [1,1,1,1,1,1,1,1], cel.bind(b, [a,a,a,a,a,a,a,a], cel.bind(c, [b,b,b,b,b,b,b,b], \
         cel.bind(d, [c,c,c,c,c,c,c,c], cel.bind(e, [d,d,d,d,d,d,d,d], cel.bind(f, [e,e,e,e,e,e,e,e], \
         cel.bind(g, [f,f,f,f,f,f,f,f], g == g)))))))",
    ] {
        assert_eq!(run(expression, &Json::Null, None), Err(Error::CostExceeded.to_string()), "{expression}");
    }
    // Deep nesting is refused, or harmless, and never overflows the stack.
    for open in ["(", "[", "!", "-", "{'a':"] {
        let close = match open {
            "(" => ")",
            "[" => "]",
            "{'a':" => "}",
            _ => "",
        };
        let deep = format!("{}1{}", open.repeat(2000), close.repeat(2000));
        let _ = run(&deep, &Json::Null, None);
    }
    assert!(run(&"1 + ".repeat(30_000), &Json::Null, None).is_err());
}

#[test]
fn costs_are_upstreams() {
    let cost = |expression: &str| {
        let program = Env::default().with("self", Decl::plain(Type::Dyn)).compile(expression).unwrap();
        let meter = Meter::new(PER_CALL_LIMIT);
        let self_value = Value::untyped(&json!({ "s": "0123456789", "l": [1, 2, 3] }));
        program.evaluate(&BTreeMap::from([("self", self_value)]), &meter).unwrap();
        meter.used()
    };
    for (expression, wanted) in [
        ("true", 0),
        ("self.s == 'x'", 3),
        ("self.s.contains('0123456789012')", 4),
        ("self.s.startsWith('0')", 3),
        ("[1, 2].size() == 2", 12),
        ("self.l.all(x, x > 0)", 18),
        ("{'a': 1}.a == 1", 32),
    ] {
        assert_eq!(cost(expression), wanted, "{expression}");
    }
}
