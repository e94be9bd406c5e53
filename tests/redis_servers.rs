//! The servers that other tests use do what those tests rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/redis.rs"]
mod redis;

use redis::{Cluster, RedisServer, Sentinels, until};

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

#[test]
fn servers_speak_tls_and_may_ask_for_a_certificate() {
    for server in [RedisServer::tls(), RedisServer::mutual_tls()] {
        assert_eq!(server.cli(&["ping"]), "PONG");
        assert!(server.url().starts_with("rediss://"));
    }
}

#[test]
fn the_sentinels_make_the_replica_the_master() {
    let mut sentinels = Sentinels::start();
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
