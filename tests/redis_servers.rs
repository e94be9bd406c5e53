//! The servers that other tests use do what those tests rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/redis.rs"]
mod redis;

use redis::{Cluster, RedisServer, SERVICE, Sentinels, until};

#[test]
fn a_server_keeps_what_is_synced_and_loses_what_is_not_when_it_is_killed() {
    for (args, kept) in [(&["--appendonly", "yes", "--appendfsync", "always"][..], "v"), (&[], "")] {
        let mut server = RedisServer::with(args);
        assert_eq!(server.cli(&["set", "k", "v"]), "OK");
        let port = server.port();
        server.kill();
        server.start_again();
        assert_eq!((server.cli(&["get", "k"]).as_str(), server.port()), (kept, port));
    }
}

/// The access rules of the documentation, for Redis and for Sentinels.
fn documented_rules() -> [String; 2] {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/REDIS.md")).unwrap();
    let rules = text.lines().filter_map(|line| line.strip_prefix("user octo ")).map(str::to_owned);
    rules.collect::<Vec<_>>().try_into().unwrap()
}

fn set_user(server: &RedisServer, rules: &str) {
    let rules: Vec<&str> = rules.split(' ').collect();
    assert_eq!(server.cli(&[&["acl", "setuser", "octo", "reset"], &rules[..]].concat()), "OK");
}

#[test]
fn the_documented_access_rules_are_enough_and_no_more() {
    let server = RedisServer::start();
    let [rules, _] = documented_rules();
    set_user(&server, &rules);
    let refused = |command: &str| {
        let answer = server.cli(&[&["acl", "dryrun", "octo"], &command.split(' ').collect::<Vec<_>>()[..]].concat());
        assert!(answer == "OK" || answer.contains("has no permissions"), "{command}: {answer}");
        answer != "OK"
    };
    for allowed in [
        "auth octo x",
        "hello 3",
        "select 1",
        "ping",
        "role",
        "info",
        "cluster slots",
        "script load x",
        "evalsha x 1 {runner-manager:octo}:",
        "time",
        "type {runner-manager:octo}:schema",
        "set {runner-manager:octo}:schema 1",
        "hset {runner-manager:octo}:jobs a b",
        "hgetall {runner-manager:octo}:jobs",
        "zadd {runner-manager:octo}:deliveries 1 a",
        "zrangebyscore {runner-manager:octo}:deliveries 0 1",
        "xadd {runner-manager:octo}:inbox:a * b c",
        "xtrim {runner-manager:octo}:inbox:a MAXLEN 1",
        "publish {runner-manager:octo}:to:a b",
        "subscribe {runner-manager:octo}:to:a",
        "wait 1 10",
    ] {
        assert!(!refused(allowed), "{allowed}");
    }
    for forbidden in [
        "get other",
        "set {runner-manager:other}:schema 1",
        "evalsha x 1 other",
        "publish other b",
        "subscribe other",
        "keys *",
        "flushall",
        "config get *",
        "acl list",
        "shutdown",
        "replicaof no one",
    ] {
        assert!(refused(forbidden), "{forbidden}");
    }
}

#[test]
fn servers_speak_tls_and_may_ask_for_a_certificate() {
    for server in [RedisServer::tls(), RedisServer::mutual_tls()] {
        assert_eq!(server.cli(&["ping"]), "PONG");
        assert!(server.url().starts_with("rediss://"));
    }
}

#[test]
fn the_sentinels_answer_whom_the_documented_rules_let_in_and_make_the_replica_the_master() {
    let mut sentinels = Sentinels::start();
    let [_, rules] = documented_rules();
    let sentinel = &sentinels.sentinels()[0];
    set_user(sentinel, &rules);
    let ask = |command: &[&str]| sentinel.cli(&[&["--user", "octo", "--pass", "PASSWORD"], command].concat());
    assert!(ask(&["sentinel", "get-master-addr-by-name", SERVICE]).starts_with("127.0.0.1"));
    assert!(ask(&["sentinel", "failover", SERVICE]).starts_with("NOPERM"));
    let before = sentinels.kill_master();
    until("the fail-over", || (sentinels.master_port() != before, sentinels.sentinels()[0].log()));
    assert!(sentinels.master().cli(&["role"]).starts_with("master"));
}

#[test]
fn the_nodes_of_a_cluster_share_the_slots_and_a_replica_has_what_its_master_has() {
    let mut cluster = Cluster::start();
    let answers = cluster.nodes().each_ref().map(|node| node.cli(&["set", "{a}1", "v"]));
    assert_eq!(answers.iter().filter(|answer| *answer == "OK").count(), 1, "{answers:?}");
    let master = RedisServer::start();
    let replica = RedisServer::replica_of(&master);
    master.cli(&["set", "k", "v"]);
    until("the replica has it too", || (replica.cli(&["get", "k"]) == "v", replica.log()));
    master.pause();
    master.resume();
    assert_eq!(master.cli(&["ping"]), "PONG");
}
