// Package simtest holds the coordinator's decisions and state against a simulated cluster: sched.Decide and fsm.State
// as they are, workers, sessions, disks and an operator as models, on simulated time, in one goroutine, from a seed.
// Faults come at random; checkers that know nothing of the code under test look at every step; and when the faults
// end, every job must come to its end with the one digest it can have.
package simtest
