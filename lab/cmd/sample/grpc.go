package main

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// identityHeader is where a sidecar tells the application who calls.
const identityHeader = "x-forwarded-client-cert"

// newGRPCServer serves gRPC's standard health service. The header of every answer tells who was asked, and by whom.
func (s *server) newGRPCServer() *grpc.Server {
	g := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		header := metadata.Pairs("service", s.service, "version", s.version, "cluster", s.cluster, "pod", s.pod)
		received, _ := metadata.FromIncomingContext(ctx)
		header.Set(identityHeader, received.Get(identityHeader)...)
		if err := grpc.SetHeader(ctx, header); err != nil {
			return nil, err
		}
		return handle(ctx, req)
	}))
	healthpb.RegisterHealthServer(g, health.NewServer())
	return g
}

// grpcClient asks for the health of the service that the URL's path names, grpc://HOST:PORT/SERVICE; without one, for that
// of the server as a whole.
type grpcClient struct {
	rawURL, address, service string
	kept                     *grpc.ClientConn // nil: a new connection for every request
}

func newGRPCClient(rawURL, address, path string, keep bool) (*grpcClient, error) {
	c := &grpcClient{rawURL: rawURL, address: address, service: strings.TrimPrefix(path, "/")}
	if !keep {
		return c, nil
	}
	var err error
	c.kept, err = c.dial()
	return c, err
}

func (c *grpcClient) dial() (*grpc.ClientConn, error) {
	// passthrough: a name is resolved by the dialler, as in the other clients.
	return grpc.NewClient("passthrough:///"+c.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func (c *grpcClient) url() string { return c.rawURL }

func (c *grpcClient) request(ctx context.Context) (Outcome, error) {
	conn := c.kept
	if conn == nil {
		var err error
		if conn, err = c.dial(); err != nil {
			return Outcome{}, err
		}
		defer conn.Close()
	}
	var header metadata.MD
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: c.service}, grpc.Header(&header))
	if err != nil {
		return Outcome{}, err
	}
	if resp.Status != healthpb.HealthCheckResponse_SERVING {
		return Outcome{}, fmt.Errorf("health is %s", resp.Status)
	}
	return Outcome{Headers: header}, nil
}

// grpcKind is the kind of an error that came by gRPC, "" of any other.
func grpcKind(err error) string {
	s, ok := status.FromError(err)
	switch {
	case !ok || s.Code() == codes.OK:
		return ""
	case s.Code() == codes.DeadlineExceeded:
		return kindTimeout
	}
	return "grpc " + s.Code().String()
}
