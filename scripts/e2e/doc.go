// Package e2e tests the whole system as its users run it: the two programs, built from this tree, as processes on this
// machine that are killed, corrupted and misused.
package e2e
