// Package clusterpb is the wire contract between workers, operators and the coordinator: the services Session and
// Operator and their messages. Both sides of one cluster are upgraded one at a time, so it only grows.
package clusterpb
