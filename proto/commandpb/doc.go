// Package commandpb is the disk contract of the coordinator: the commands in the raft log and the snapshot of the state
// they lead to. Every byte ever written to a log must stay readable, so it is append only; golden bytes in testdata/
// and the contract in proto/testdata/ hold it to that.
package commandpb
