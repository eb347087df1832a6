package rpc

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
)

// members are the coordinators as operators see them.
func (s *Server) members() ([]*clusterpb.Member, error) {
	all, err := s.Node.Members()
	if err != nil {
		return nil, err
	}
	self, now := s.Node.ID(), time.Now()
	var out []*clusterpb.Member
	for _, m := range all {
		p := &clusterpb.Member{Id: m.ID, Address: m.Address, Role: m.Role, Answers: m.Answers || m.ID == self,
			Contacted: m.Answers || m.ID == self || !m.Contact.IsZero()}
		if m.ID == self { // the log may still have an older one
			p.Address = s.Node.Address()
		}
		if !p.Answers && p.Contacted {
			p.SilentMs = uint64(max(now.Sub(m.Contact), 0) / time.Millisecond)
		}
		out = append(out, p)
	}
	return out, nil
}

// ListMembers implements the Operator service.
func (s *Server) ListMembers(ctx context.Context, _ *clusterpb.ListMembersRequest) (*clusterpb.ListMembersReply,
	error) {
	view, err := s.Control.Read(ctx)
	if err != nil {
		return nil, s.status(err)
	}
	members, err := s.members()
	if err != nil {
		return nil, s.status(err)
	}
	return &clusterpb.ListMembersReply{Cluster: view.Cluster, Members: members}, nil
}

// AddMember implements the Operator service.
func (s *Server) AddMember(ctx context.Context, r *clusterpb.AddMemberRequest) (*clusterpb.ListMembersReply, error) {
	if _, _, err := net.SplitHostPort(r.Address); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "address %q: %v; give host:port", r.Address, err)
	}
	have, err := s.ListMembers(ctx, nil)
	if err != nil {
		return nil, err
	}
	if r.Cluster != "" && r.Cluster != have.Cluster {
		return nil, s.status(fmt.Errorf("%w: this is %s, not %s, which coordinator %s is of; choose another --join, or "+
			"another --data", raftnode.ErrMembership, have.Cluster, r.Cluster, r.Id))
	}
	if err := s.Node.Admit(ctx, r.Id, r.Address); err != nil {
		return nil, s.status(err)
	}
	return s.ListMembers(ctx, nil)
}

// RemoveMember implements the Operator service.
func (s *Server) RemoveMember(ctx context.Context, r *clusterpb.RemoveMemberRequest) (*clusterpb.ListMembersReply,
	error) {
	if r.Id == "" {
		return nil, status.Error(codes.InvalidArgument, "the request names no coordinator; see: coordinator member list")
	}
	if err := s.Node.Remove(ctx, r.Id); err != nil {
		return nil, s.status(err)
	}
	return s.ListMembers(ctx, nil)
}

// chunk is how much of a backup one message has.
const chunk = 1 << 20

// Backup implements the Operator service.
func (s *Server) Backup(_ *clusterpb.BackupRequest, stream grpc.ServerStreamingServer[clusterpb.BackupChunk]) error {
	b, err := s.Control.Backup(stream.Context())
	if err != nil {
		return s.status(err)
	}
	for len(b) > 0 {
		n := min(len(b), chunk)
		if err := stream.Send(&clusterpb.BackupChunk{Data: b[:n]}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
