//! The controllers: one file each, all of one shape.
