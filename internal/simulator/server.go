// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

// handler answers one endpoint: with a value that becomes the JSON body, nil
// being {}, or with a refusal.
type handler func(*Workspace, *request) (any, *refusal)

// endpoints is the routing table. A scope makes an endpoint ask for a bearer
// token with this API scope (Databricks REST reference, API scopes); an empty
// one makes it public.
var endpoints = []struct {
	pattern string
	scope   string
	handle  handler
}{
	{"GET /api/2.0/preview/scim/v2/Me", "scim", (*Workspace).me},
	{"GET /api/2.0/preview/scim/v2/ServicePrincipals", "scim", (*Workspace).listServicePrincipals},
	{"POST /api/2.0/preview/scim/v2/ServicePrincipals", "scim", scimAdminOnly((*Workspace).createServicePrincipal)},
	{"GET /api/2.0/preview/scim/v2/ServicePrincipals/{id}", "scim", (*Workspace).getServicePrincipal},
	{"PUT /api/2.0/preview/scim/v2/ServicePrincipals/{id}", "scim", scimAdminOnly((*Workspace).replaceServicePrincipal)},
	{"PATCH /api/2.0/preview/scim/v2/ServicePrincipals/{id}", "scim", scimAdminOnly((*Workspace).patchServicePrincipal)},
	{"DELETE /api/2.0/preview/scim/v2/ServicePrincipals/{id}", "scim", scimAdminOnly((*Workspace).deleteServicePrincipal)},
	{"GET /api/2.0/preview/scim/v2/Groups", "scim", (*Workspace).listGroups},
	{"POST /api/2.0/preview/scim/v2/Groups", "scim", scimAdminOnly((*Workspace).createGroup)},
	{"GET /api/2.0/preview/scim/v2/Groups/{id}", "scim", (*Workspace).getGroup},
	{"PUT /api/2.0/preview/scim/v2/Groups/{id}", "scim", scimAdminOnly((*Workspace).replaceGroup)},
	{"PATCH /api/2.0/preview/scim/v2/Groups/{id}", "scim", scimAdminOnly((*Workspace).patchGroup)},
	{"DELETE /api/2.0/preview/scim/v2/Groups/{id}", "scim", scimAdminOnly((*Workspace).deleteGroup)},
	{"GET /api/2.0/preview/scim/v2/Users", "scim", (*Workspace).listUsers},
	{"GET /api/2.0/preview/scim/v2/Users/{id}", "scim", (*Workspace).getUser},

	{"GET /api/2.0/accounts/{account_id}/scim/v2/ServicePrincipals", "scim", (*Workspace).listServicePrincipals},
	{"POST /api/2.0/accounts/{account_id}/scim/v2/ServicePrincipals", "scim", (*Workspace).createServicePrincipal},
	{"GET /api/2.0/accounts/{account_id}/scim/v2/ServicePrincipals/{id}", "scim", (*Workspace).getServicePrincipal},
	{"PUT /api/2.0/accounts/{account_id}/scim/v2/ServicePrincipals/{id}", "scim", (*Workspace).replaceServicePrincipal},
	{"PATCH /api/2.0/accounts/{account_id}/scim/v2/ServicePrincipals/{id}", "scim", (*Workspace).patchServicePrincipal},
	{"DELETE /api/2.0/accounts/{account_id}/scim/v2/ServicePrincipals/{id}", "scim", (*Workspace).deleteServicePrincipal},
	{"GET /api/2.0/accounts/{account_id}/scim/v2/Groups", "scim", (*Workspace).listGroups},
	{"POST /api/2.0/accounts/{account_id}/scim/v2/Groups", "scim", (*Workspace).createGroup},
	{"GET /api/2.0/accounts/{account_id}/scim/v2/Groups/{id}", "scim", (*Workspace).getGroup},
	{"PUT /api/2.0/accounts/{account_id}/scim/v2/Groups/{id}", "scim", (*Workspace).replaceGroup},
	{"PATCH /api/2.0/accounts/{account_id}/scim/v2/Groups/{id}", "scim", (*Workspace).patchGroup},
	{"DELETE /api/2.0/accounts/{account_id}/scim/v2/Groups/{id}", "scim", (*Workspace).deleteGroup},

	{"POST /api/2.0/accounts/servicePrincipals/{sp_id}/credentials/secrets", "authentication", (*Workspace).createOAuthSecret},
	{"GET /api/2.0/accounts/servicePrincipals/{sp_id}/credentials/secrets", "authentication", (*Workspace).listOAuthSecrets},
	{"DELETE /api/2.0/accounts/servicePrincipals/{sp_id}/credentials/secrets/{secret_id}", "authentication", (*Workspace).deleteOAuthSecret},
	{"POST /api/2.0/accounts/{account_id}/servicePrincipals/{sp_id}/credentials/secrets", "authentication", (*Workspace).createOAuthSecret},
	{"GET /api/2.0/accounts/{account_id}/servicePrincipals/{sp_id}/credentials/secrets", "authentication", (*Workspace).listOAuthSecrets},
	{"DELETE /api/2.0/accounts/{account_id}/servicePrincipals/{sp_id}/credentials/secrets/{secret_id}", "authentication", (*Workspace).deleteOAuthSecret},

	{"POST /api/2.0/token/create", "authentication", (*Workspace).createToken},
	{"GET /api/2.0/token/list", "authentication", (*Workspace).listOwnTokens},
	{"POST /api/2.0/token/delete", "authentication", (*Workspace).deleteOwnToken},
	{"PATCH /api/2.0/token/{token_id}", "authentication", (*Workspace).updateOwnToken},

	{"POST /api/2.0/token-management/on-behalf-of/tokens", "authentication", adminOnly((*Workspace).createOnBehalfOf)},
	{"GET /api/2.0/token-management/tokens", "authentication", adminOnly((*Workspace).listManagedTokens)},
	{"GET /api/2.0/token-management/tokens/{token_id}", "authentication", adminOnly((*Workspace).getManagedToken)},
	{"DELETE /api/2.0/token-management/tokens/{token_id}", "authentication", adminOnly((*Workspace).deleteManagedToken)},

	{"POST /api/2.0/secrets/scopes/create", "secrets", (*Workspace).createScope},
	{"POST /api/2.0/secrets/scopes/delete", "secrets", (*Workspace).deleteScope},
	{"GET /api/2.0/secrets/scopes/list", "secrets", (*Workspace).listScopes},
	{"POST /api/2.0/secrets/put", "secrets", (*Workspace).putSecret},
	{"POST /api/2.0/secrets/delete", "secrets", (*Workspace).deleteSecret},
	{"GET /api/2.0/secrets/get", "secrets", (*Workspace).getSecret},
	{"GET /api/2.0/secrets/list", "secrets", (*Workspace).listSecrets},
	{"POST /api/2.0/secrets/acls/put", "secrets", (*Workspace).putACL},
	{"POST /api/2.0/secrets/acls/delete", "secrets", (*Workspace).deleteACL},
	{"GET /api/2.0/secrets/acls/get", "secrets", (*Workspace).getACL},
	{"GET /api/2.0/secrets/acls/list", "secrets", (*Workspace).listACLs},

	{"POST /api/2.1/unity-catalog/secrets", "unity-catalog", ucServed((*Workspace).createUCSecret)},
	{"GET /api/2.1/unity-catalog/secrets", "unity-catalog", ucServed((*Workspace).listUCSecrets)},
	{"GET /api/2.1/unity-catalog/secrets/{full_name}", "unity-catalog", ucServed((*Workspace).getUCSecret)},
	{"PATCH /api/2.1/unity-catalog/secrets/{full_name}", "unity-catalog", ucServed((*Workspace).updateUCSecret)},
	{"DELETE /api/2.1/unity-catalog/secrets/{full_name}", "unity-catalog", ucServed((*Workspace).deleteUCSecret)},

	{"GET /api/2.1/clusters/list", "clusters", list("clusters", clusters)},
	{"GET /api/2.1/clusters/get", "clusters", get("cluster_id", clusters, noCluster)},
	{"GET /api/2.0/libraries/all-cluster-statuses", "libraries", list("statuses", libraries)},
	{"GET /api/2.0/libraries/cluster-status", "libraries", get("cluster_id", libraries, noCluster)},
	{"GET /api/2.0/instance-profiles/list", "instance-profiles", list("instance_profiles", instanceProfiles)},
	{"GET /api/2.2/jobs/list", "jobs", list("jobs", jobs)},
	{"GET /api/2.2/jobs/get", "jobs", get("job_id", jobs, noJob)},
	{"GET /api/2.0/dbfs/list", "files", listDirectory("files", files, noFile)},
	{"GET /api/2.0/dbfs/get-status", "files", get("path", files, noFile)},
	{"GET /api/2.0/workspace/list", "workspace", listDirectory("objects", notebooks, noPath)},
	{"GET /api/2.0/workspace/get-status", "workspace", get("path", notebooks, noPath)},

	{"POST /api/2.0/postgres/credentials", "postgres", (*Workspace).createEndpointLogin},
	{"GET /api/2.0/postgres/projects/{project}/branches/{branch}/endpoints/{endpoint}", "postgres", (*Workspace).getDatabaseEndpoint},
	{"POST /api/2.0/database/credentials", "postgres", (*Workspace).createInstanceLogin},
	{"GET /api/2.0/database/instances/{name}", "postgres", (*Workspace).getDatabaseInstance},

	{"POST /oidc/v1/token", "", (*Workspace).grantAccessToken},
	{"GET /oidc/.well-known/oauth-authorization-server", "", (*Workspace).oauthMetadata},
	{"POST /oidc/accounts/{account_id}/v1/token", "", ofAccount((*Workspace).grantAccessToken)},
	{"GET /oidc/accounts/{account_id}/.well-known/oauth-authorization-server", "", ofAccount((*Workspace).oauthMetadata)},
	{"POST /{tenant_id}/oauth2/token", "", (*Workspace).grantEntraToken},
	{"GET /.well-known/databricks-config", "", (*Workspace).hostMetadata},
}

// request is a request whose body has been read.
type request struct {
	*http.Request
	id       string // X-Request-Id of the answer
	body     []byte
	caller   *principal     // nil until authenticated
	scopes   []string       // of the caller's token
	kind     string         // of the caller's token, such as [KindPAT]
	effect   bool           // a handler ran
	status   int            // of a success, 0 = 200
	extra    http.Header    // sent along with a success
	statuses map[string]int // see [WithStatuses]
}

// decode reads the JSON body into v. An empty body counts as {}, and unknown
// members are ignored.
func (r *request) decode(v any) *refusal {
	if len(r.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		return refuse(http.StatusBadRequest, "MALFORMED_REQUEST",
			"Invalid JSON given in the body of the request - failed to parse given JSON")
	}
	return nil
}

// serve starts the server on listener, which it takes over.
func (w *Workspace) serve(listener net.Listener) {
	scheme := "http://"
	if w.settings.tls {
		scheme = "https://"
		listener, w.caCert = selfSigned(listener)
	}
	w.url = scheme + listener.Addr().String()

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {}) // no reply means that no endpoint matched
	for _, e := range endpoints {
		mux.HandleFunc(e.pattern, func(out http.ResponseWriter, _ *http.Request) {
			d := out.(*dispatch)
			d.reply = w.call(d.request, e.scope, e.handle)
		})
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.server = &http.Server{
		Handler: http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
			w.answer(mux, out, in)
		}),
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(errorLog{}, "", 0),
	}
	if w.settings.page != nil {
		w.server.Handler = withPage(w.settings.page(w), w.server.Handler)
	}
	go func() {
		defer close(w.served)
		_ = w.server.Serve(listener)
	}()
}

// withPage serves page below [PagePath], and api elsewhere.
func withPage(page, api http.Handler) http.Handler {
	return http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		switch {
		case strings.HasPrefix(in.URL.Path, PagePath):
			page.ServeHTTP(out, in)
		case in.URL.Path == "/" && in.Method == http.MethodGet && strings.Contains(in.Header.Get("Accept"), "text/html"):
			http.Redirect(out, in, PagePath, http.StatusFound)
		default:
			api.ServeHTTP(out, in)
		}
	})
}

// errorLog passes on what the server complains about, so that a panic of a
// handler is seen, but not failed handshakes, which tests bring about.
type errorLog struct{}

func (errorLog) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("TLS handshake error")) {
		return len(p), nil
	}
	return os.Stderr.Write(p)
}

// Close stops the server and cuts live connections, held and delayed requests
// included. The state can still be read. Closing again does nothing.
func (w *Workspace) Close() {
	w.closeOnce.Do(func() {
		w.stop()
		_ = w.server.Close()
		<-w.served
	})
}

// answer takes one request through the log, the faults and its handler. The log
// entry is complete before the answer leaves, so that a client which has an
// answer finds it in the log.
func (w *Workspace) answer(mux *http.ServeMux, out http.ResponseWriter, in *http.Request) {
	r := &request{Request: in, id: newUUID(), extra: http.Header{}, statuses: w.settings.statuses}
	body, err := io.ReadAll(in.Body)
	r.body = body
	date := w.settings.now()
	record := w.calls.begin(date, r)
	if err != nil {
		w.finish(record, r, 0, false)
		panic(http.ErrAbortHandler)
	}

	var re *reply
	fault := w.faults.match(in.Method, in.URL.Path)
	if fault == nil {
		re = w.route(mux, out, r)
	} else {
		re = fault.apply(r, func() *reply { return w.route(mux, out, r) })
		date = w.settings.now() // the fault may have taken time
	}
	if re.cut != nil {
		w.finish(record, r, 0, fault != nil)
		re.cut(out)
		return
	}
	w.finish(record, r, re.status, fault != nil)
	header := out.Header()
	header.Set("Server", "databricks")
	header.Set("X-Request-Id", r.id)
	header.Set("Date", date.UTC().Format(http.TimeFormat))
	if fault != nil && fault.NoDate {
		header["Date"] = nil // keeps net/http from adding one
	}
	for name, values := range re.header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	if len(re.body) > 0 {
		header.Set("Content-Length", strconv.Itoa(len(re.body)))
	}
	out.WriteHeader(re.status)
	_, _ = out.Write(re.body) // a client that has gone away doesn't matter
}

func (w *Workspace) finish(record *Call, r *request, status int, fault bool) {
	w.calls.finish(record, r, status, fault)
	if w.settings.observer != nil {
		w.settings.observer(*record)
	}
}

// dispatch carries a request through the mux, which sets its path values, to
// its handler, and the reply back.
type dispatch struct {
	http.ResponseWriter
	request *request
	reply   *reply
}

func (w *Workspace) route(mux *http.ServeMux, out http.ResponseWriter, r *request) *reply {
	if refused := w.admit(r); refused != nil {
		return refused.reply(r)
	}
	for _, name := range []string{"X-Databricks-Workspace-Id", "X-Databricks-Org-Id"} {
		if id := r.Header.Get(name); id != "" && id != w.settings.workspaceID {
			// The real form of this refusal is unknown.
			return refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
				fmt.Sprintf("Workspace %q is not served by this host.", id)).reply(r)
		}
	}
	if w.settings.unified && underWorkspace(r) && r.Header.Get("X-Databricks-Workspace-Id") == "" && r.Header.Get("X-Databricks-Org-Id") == "" {
		// The real form of this refusal is unknown.
		return refuse(http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
			"This host serves several workspaces: the header X-Databricks-Workspace-Id must name one.").reply(r)
	}
	if path.Clean(r.URL.Path) == r.URL.Path { // the mux would redirect others
		d := &dispatch{ResponseWriter: out, request: r}
		if mux.ServeHTTP(d, r.Request); d.reply != nil {
			return d.reply
		}
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		if refused := w.authenticate(r); refused != nil {
			return refused.reply(r)
		}
	}
	return noEndpoint(r).reply(r)
}

func noEndpoint(r *request) *refusal {
	return refuse(http.StatusNotFound, "ENDPOINT_NOT_FOUND", "No API found for '"+r.Method+" "+r.URL.Path+"'")
}

// call runs the handler of an endpoint for a caller who may.
func (w *Workspace) call(r *request, scope string, handle handler) *reply {
	if scope != "" {
		if refused := w.authenticate(r); refused != nil {
			return refused.reply(r)
		}
		if refused := authorize(r, scope); refused != nil {
			return refused.reply(r)
		}
		if underAccount(r) {
			if refused := w.enterAccount(r); refused != nil {
				return refused.reply(r)
			}
		}
	}
	r.effect = true
	value, refused := handle(w, r)
	if refused != nil {
		return refused.reply(r)
	}
	re := &reply{status: r.status, header: http.Header{}}
	if r.status != http.StatusNoContent {
		re = jsonReply(r, max(r.status, http.StatusOK), value)
	}
	for name, values := range r.extra {
		re.header[name] = values
	}
	return re
}
