// Package shard describes networks as data and says how their columns share the work.
//
// A network (Network) is read from YAML: layers with kernels, strides, padding, maps and, for every layer with
// weights, its connectivity: `column` (it sees its own column's maps only) or `all` (it sees every column's maps, so an
// exchange comes before it). NewPlan splits a network into K columns and answers, for each layer and column, what is
// computed, owned, sent and received. Everything here is a pure function of the file and K: no clock, no randomness,
// no goroutine, nothing but the standard library and a YAML parser.
//
//	     column 0                         column 1
//	conv1 pool1 conv2 pool2          conv1 pool1 conv2 pool2
//	              |  \________________/  |
//	              |  /                \  |        exchange before conv3
//	conv3 conv4 conv5 pool5          conv3 conv4 conv5 pool5
//	              |  \________________/  |
//	              |  /                \  |        exchanges before fc6, fc7, fc8
//	     fc6 .. fc7 .. fc8                fc6 .. fc7 .. fc8
//	                 \_______ logits _______/
//
// Shapes are per image, NCHW without the N, unless a comment says otherwise.
package shard
