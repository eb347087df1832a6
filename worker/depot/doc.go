// Package depot hands packs to workers of other hosts, and fetches those that this host lacks. What is fetched has a
// temporary name until all of it has been hashed into the identity that the job names: no peer can give a wrong byte.
package depot
