// SPDX-License-Identifier: MPL-2.0

// Package fake answers as Databricks does in form, with no work of its own, so that what is measured is the engine. It also answers the
// few calls that HashiCorp's engine for HCP Terraform makes, which serves as a peer.
package fake

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server is a workspace without latency. It is safe for concurrent use.
type Server struct {
	URL string

	// PutDelay is how long writing a secret takes.
	PutDelay atomic.Int64 // nanoseconds

	Creates, Deletes, Tokens, Others atomic.Int64
	// unexpected is the first call that no path answers.
	unexpected atomic.Pointer[string]

	serial atomic.Int64
	http   http.Server

	mu     sync.Mutex
	scopes map[string]map[string]int64 // when each key of a scope was written, in milliseconds
}

// Start returns a server on a free port of the loopback interface.
func Start() (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "http://" + listener.Addr().String(), scopes: make(map[string]map[string]int64)}
	s.http.Handler = s.paths()
	go func() { _ = s.http.Serve(listener) }()
	return s, nil
}

// Close ends the server.
func (s *Server) Close() { _ = s.http.Close() }

// Unexpected returns the first call that the server does not know, "" for none.
func (s *Server) Unexpected() string {
	if call := s.unexpected.Load(); call != nil {
		return *call
	}
	return ""
}

func (s *Server) paths() http.Handler {
	mux := http.NewServeMux()
	answer := func(path, kind string, count *atomic.Int64, body func() string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			count.Add(1)
			w.Header().Set("Content-Type", kind)
			fmt.Fprint(w, body())
		})
	}
	const asJSON, asSCIM, asAPI = "application/json", "application/scim+json", "application/vnd.api+json"
	answer("/api/2.0/token/create", asJSON, &s.Creates, func() string {
		i, now := s.serial.Add(1), time.Now().UnixMilli()
		return fmt.Sprintf(`{"token_value":"dapi%032x","token_info":{"token_id":"%064x","creation_time":%d,"expiry_time":%d,"comment":"x"}}`, i, i, now, now+7260000)
	})
	answer("/api/2.0/token/delete", asJSON, &s.Deletes, func() string { return "{}" })
	answer("/api/2.0/token/list", asJSON, &s.Others, func() string { return `{"token_infos":[]}` })
	answer("/oidc/v1/token", asJSON, &s.Tokens, func() string {
		time.Sleep(50 * time.Millisecond) // so that the requests of a cold start wait for it together
		return `{"access_token":"eyJhbGciOiJub25lIn0.e30.","token_type":"Bearer","expires_in":3600}`
	})
	answer("/api/2.0/accounts/servicePrincipals/", asJSON, &s.Others, func() string { return "{}" })
	answer("/api/2.0/preview/scim/v2/Me", asSCIM, &s.Others, func() string {
		return `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"id":"77","userName":"engine@example.com","active":true}`
	})
	mux.HandleFunc("/api/2.0/secrets/", s.secret)
	mux.HandleFunc("/api/v2/ping", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	answer("/api/v2/users/", asAPI, &s.Creates, func() string {
		i := s.serial.Add(1)
		return fmt.Sprintf(`{"data":{"id":"at-%d","type":"authentication-tokens","attributes":{"created-at":"2026-01-01T00:00:00.000Z","description":"x","token":"tok%032x"}}}`, i, i)
	})
	mux.HandleFunc("/api/v2/authentication-tokens/", func(w http.ResponseWriter, _ *http.Request) {
		s.Deletes.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.Others.Add(1)
		call := r.Method + " " + r.URL.Path
		s.unexpected.CompareAndSwap(nil, &call)
		w.Header().Set("Content-Type", asJSON)
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error_code":"ENDPOINT_NOT_FOUND","message":"no such endpoint"}`)
	})
	return mux
}

// secret answers the calls for secrets. Values are not kept.
func (s *Server) secret(w http.ResponseWriter, r *http.Request) {
	s.Others.Add(1)
	var body struct{ Scope, Key string }
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	switch r.URL.Path {
	case "/api/2.0/secrets/put":
		time.Sleep(time.Duration(s.PutDelay.Load()))
		s.mu.Lock()
		if s.scopes[body.Scope] == nil {
			s.scopes[body.Scope] = make(map[string]int64)
		}
		s.scopes[body.Scope][body.Key] = time.Now().UnixMilli()
		s.mu.Unlock()
	case "/api/2.0/secrets/delete":
		s.mu.Lock()
		delete(s.scopes[body.Scope], body.Key)
		s.mu.Unlock()
	}
	type secret struct {
		Key     string `json:"key"`
		Updated int64  `json:"last_updated_timestamp"`
	}
	list := struct {
		Secrets []secret `json:"secrets,omitempty"`
	}{}
	if r.URL.Path == "/api/2.0/secrets/list" {
		s.mu.Lock()
		for key, updated := range s.scopes[r.URL.Query().Get("scope")] {
			list.Secrets = append(list.Secrets, secret{key, updated})
		}
		s.mu.Unlock()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}
