// Package proto is the home of the contracts between the programs and with their own disks: clusterpb, commandpb and
// exchangepb, each a .proto file with its generated code. The package itself holds no code, only the test that a
// contract never loses anything.
package proto
