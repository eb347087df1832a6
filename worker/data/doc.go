// Package data turns images into packs and packs into batches: importers (IDX, folders, tar), the pack file, the order
// of samples, the view of each, and the loader that gathers a step's batch.
//
// Nothing here keeps a position: the batch of step s is a function of the job and s, so resuming needs only the step.
package data
