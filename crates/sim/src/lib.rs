//! A whole cluster in one thread and in virtual time.
