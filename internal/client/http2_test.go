// SPDX-License-Identifier: MPL-2.0

package client

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"io"
	"net"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// HTTP/2 frame types and flags (RFC 9113, section 6).
const (
	frameData, frameHeaders, frameReset, frameSettings, frameGoAway = 0, 1, 3, 4, 7
	flagEndStream, flagAck, flagEndHeaders                          = 1, 1, 4
)

func frame(kind, flags byte, stream uint32, payload ...byte) []byte {
	head := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(head, stream), payload...)
}

// misbehave serves HTTP/2 by hand: it answers the first request with the frames given for its stream, and later ones with
// a created token. It returns the host, a certificate to trust, and the number of requests received.
func misbehave(t *testing.T, first func(stream uint32) []byte) (host, cert string, requests *atomic.Int64) {
	donor := httptest.NewTLSServer(nil)
	t.Cleanup(donor.Close)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: donor.TLS.Certificates,
		NextProtos:   []string{"h2"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	requests = &atomic.Int64{}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveHTTP2(conn, func(stream uint32) []byte {
				if requests.Add(1) == 1 {
					return first(stream)
				}
				return append(frame(frameHeaders, flagEndHeaders, stream, 0x88), // :status 200
					frame(frameData, flagEndStream, stream, []byte(createdBody)...)...)
			})
		}
	}()
	cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: donor.Certificate().Raw}))
	return "https://" + listener.Addr().String(), cert, requests
}

func serveHTTP2(conn net.Conn, respond func(stream uint32) []byte) {
	defer func() { _ = conn.Close() }()
	preface := make([]byte, 24)
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	if _, err := conn.Write(frame(frameSettings, 0, 0)); err != nil {
		return
	}
	for {
		head := make([]byte, 9)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, conn, int64(head[0])<<16|int64(head[1])<<8|int64(head[2])); err != nil {
			return
		}
		kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
		var reply []byte
		switch {
		case kind == frameSettings && flags&flagAck == 0:
			reply = frame(frameSettings, flagAck, 0)
		case (kind == frameHeaders || kind == frameData) && flags&flagEndStream != 0:
			reply = respond(stream)
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

func TestHTTP2Faults(t *testing.T) {
	t.Parallel()
	table := []struct {
		name  string
		fault func(stream uint32) []byte
		// requests that a create and a delete cause, and whether the create succeeds
		creates, deletes int64
		created          bool
	}{
		{"stream error that net/http would repeat", func(stream uint32) []byte {
			return frame(frameReset, 0, stream, 0, 0, 0, 1)
		}, 1, 2, false},
		{"internal error", func(stream uint32) []byte {
			return frame(frameReset, 0, stream, 0, 0, 0, 2)
		}, 1, 2, false},
		{"refused stream", func(stream uint32) []byte {
			return frame(frameReset, 0, stream, 0, 0, 0, 7)
		}, 2, 2, true},
		{"going away before the request", func(uint32) []byte {
			return frame(frameGoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		}, 2, 2, true},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			host, cert, requests := misbehave(t, row.fault)
			cfg := patConfig(host)
			cfg.CACert = cert
			created, err := newClient(t, cfg).CreateToken(t.Context(), aMinute)
			require.Equal(t, row.creates, requests.Load())
			if row.created {
				require.NoError(t, err)
				require.False(t, created.Retried, "the first was certainly not processed")
			} else {
				e := failureOf(t, err)
				require.Equal(t, Unavailable, e.Kind)
				require.False(t, e.Unprocessed)
			}

			host, cfg.CACert, requests = misbehave(t, row.fault)
			cfg.Host = host
			require.NoError(t, newClient(t, cfg).DeleteToken(t.Context(), mintedID))
			require.Equal(t, row.deletes, requests.Load())
		})
	}
}
