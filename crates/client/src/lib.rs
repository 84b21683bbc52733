//! What client-go is to Go components: informers, listers, work queues, events, leader election.
