// Package train runs cells: it builds one column of the plan on a device, drives it step by step, exchanges
// activations and gradients with the other cells, evaluates, and takes checkpoints.
//
// A step is a list of named phases, made once (build.go) and run in order (step.go):
//
//	input    images to the device; crop, reflect, subtract the mean
//	forward  layer by layer; before an `all` layer: send own maps, own block's product, wait, the other blocks
//	loss     gather logits, softmax, cross-entropy
//	guard    every cell tells every other whether it may go on; one that may not holds all of them
//	backward the mirror image: gradients of other columns' maps first, so that they travel while weights are done
//	replicas gradients are summed over the replicas of the column, layer by layer while the backward pass goes on
//	update   SGD, from one half of the state to the other
//
// Nothing in a phase depends on where another cell runs, on time or on threads: a cell's bits are a function of the
// job. A cell runs on one goroutine that is locked to its OS thread.
package train
