// Package whole holds three coordinators, with all that the program is made of, against what goes wrong between them:
// raft on disk, the port, gRPC, the clients of operators and the sessions of workers run as they are, in a bubble of
// virtual time, over a network of ours that can be cut, one way too, and that loses packets.
package whole
