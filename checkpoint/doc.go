// Package checkpoint keeps cells' state on disk: one bbolt file for each cell and step, written under a temporary name,
// synced once and renamed, verified in full before a byte of it is believed. A checkpoint exists when its manifest is
// committed by the coordinator; a file without one is overwritten when its step is reached again.
package checkpoint
