package arena

// Newest is the newest step of every cell of a job, by replica and column. It takes no lock, so it never is in the way
// of who wants one: for those who only watch, as often as they like.
func (s *Store) Newest(cluster, job string) map[[2]int]uint64 {
	out := map[[2]int]uint64{}
	for _, f := range s.look(jobPart(cluster, job) + "-") {
		if f.err == nil && f.key.Cluster == cluster && f.key.Job == job && len(f.held) > 0 {
			cell := [2]int{f.key.Replica, f.key.Column}
			out[cell] = max(out[cell], f.held[0])
		}
	}
	return out
}
