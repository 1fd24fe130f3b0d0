// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// databricksResource is the app that Databricks is in Microsoft Entra ID, in
	// every Azure cloud.
	databricksResource = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d"

	entraTokenLifetime = 3599 * time.Second

	// entraMargin is how much life a token of Entra ID must have left to be
	// accepted by Databricks.
	entraMargin = 30 * time.Second

	headerResourceID      = "X-Databricks-Azure-Workspace-Resource-Id"
	headerManagementToken = "X-Databricks-Azure-SP-Management-Token"
)

// managementResources are the management endpoints of the Azure clouds, any of
// which will do.
var managementResources = []string{
	"https://management.core.windows.net", "https://management.azure.com",
	"https://management.core.usgovcloudapi.net", "https://management.usgovcloudapi.net",
	"https://management.core.chinacloudapi.cn", "https://management.chinacloudapi.cn",
}

// WithAzureResourceID sets the Azure resource id of the workspace
// ("/subscriptions/…"). A service principal that is not in the workspace, see
// [Workspace.SetWorkspaceMember], is then admitted with a token of Microsoft
// Entra ID, for one request at a time, if that comes with this id and a token for
// Azure's management endpoint.
func WithAzureResourceID(id string) Option { return func(s *settings) { s.azureResourceID = id } }

type entraID struct{ tenantID, clientID string }

// entraApp is guarded by the workspace's mutex.
type entraApp struct {
	owner    *principal
	secrets  []string // hashes
	expired  []string // hashes of secrets that were good once
	disabled bool
}

// AddEntraApp gives a service principal a secret in Microsoft Entra ID, whose
// token endpoint is at /{tenantID}/oauth2/token. The client id is p.ApplicationID;
// adding it to the same tenant again adds a further secret. It panics if p is a
// user.
func (w *Workspace) AddEntraApp(p Principal, tenantID string) (clientID, clientSecret string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	owner := w.mustFind(p)
	if p.ApplicationID == "" {
		panic("simulator: only a service principal has an app in Microsoft Entra ID")
	}
	id := entraID{tenantID, p.ApplicationID}
	app := w.entraApps[id]
	if app == nil {
		app = &entraApp{owner: owner}
		w.entraApps[id] = app
	}
	clientSecret = "entra~" + randomHex(17)
	app.secrets = append(app.secrets, hashOf(clientSecret))
	return p.ApplicationID, clientSecret
}

// ExpireEntraSecret ends a secret that AddEntraApp gave.
func (w *Workspace) ExpireEntraSecret(tenantID, clientID, clientSecret string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	app, hash := w.entraApps[entraID{tenantID, clientID}], hashOf(clientSecret)
	app.secrets = slices.DeleteFunc(app.secrets, func(other string) bool { return other == hash })
	app.expired = append(app.expired, hash)
}

// DisableEntraApp disables an app in its tenant.
func (w *Workspace) DisableEntraApp(tenantID, clientID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entraApps[entraID{tenantID, clientID}].disabled = true
}

// entraTenant matches the ids and domains of tenants.
var entraTenant = regexp.MustCompile(`^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)$`)

// refuseByEntra has the envelope of Microsoft Entra ID.
func refuseByEntra(r *request, status int, code string, number int, description string, now time.Time) *refusal {
	correlationID, timestamp := newUUID(), now.UTC().Format("2006-01-02 15:04:05Z")
	refused := refuse(status, code, fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s", number, description, r.id, correlationID, timestamp))
	refused.extra = map[string]any{
		"error_codes": []int{number}, "timestamp": timestamp, "trace_id": r.id, "correlation_id": correlationID,
		"error_uri": fmt.Sprintf("https://login.microsoftonline.com/error?code=%d", number),
	}
	return refused
}

// grantEntraToken is the token endpoint of Microsoft Entra ID, version 1, for the
// client_credentials grant. Its numbers are strings.
func (w *Workspace) grantEntraToken(r *request) (any, *refusal) {
	form, refused := r.form()
	if refused != nil {
		return nil, refused
	}
	tenantID, clientID := r.PathValue("tenant_id"), form.Get("client_id")
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.settings.now()
	known := false
	for id := range w.entraApps {
		known = known || id.tenantID == tenantID
	}
	resource := strings.TrimSuffix(strings.ToLower(form.Get("resource")), "/")
	app := w.entraApps[entraID{tenantID, clientID}]
	switch {
	case !known && !entraTenant.MatchString(tenantID):
		return nil, refuseByEntra(r, http.StatusBadRequest, "invalid_request", 900023,
			fmt.Sprintf("Specified tenant identifier '%s' is neither a valid DNS name, nor a valid external domain.", tenantID), now)
	case !known:
		return nil, refuseByEntra(r, http.StatusBadRequest, "invalid_request", 90002, fmt.Sprintf("Tenant '%s' not found.", tenantID), now)
	case form.Get("grant_type") != "client_credentials":
		return nil, refuseByEntra(r, http.StatusBadRequest, "unsupported_grant_type", 70003,
			fmt.Sprintf("The app requested an unsupported grant type '%s'.", form.Get("grant_type")), now)
	case app == nil:
		return nil, refuseByEntra(r, http.StatusBadRequest, "unauthorized_client", 700016,
			fmt.Sprintf("Application with identifier '%s' was not found in the directory '%s'.", clientID, tenantID), now)
	case app.disabled:
		return nil, refuseByEntra(r, http.StatusUnauthorized, "invalid_client", 7000112, fmt.Sprintf("Application '%s' is disabled.", clientID), now)
	case slices.Contains(app.expired, hashOf(form.Get("client_secret"))):
		return nil, refuseByEntra(r, http.StatusUnauthorized, "invalid_client", 7000222,
			fmt.Sprintf("The provided client secret keys for app '%s' are expired.", clientID), now)
	case !slices.Contains(app.secrets, hashOf(form.Get("client_secret"))):
		return nil, refuseByEntra(r, http.StatusUnauthorized, "invalid_client", 7000215,
			fmt.Sprintf("Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '%s'.", clientID), now)
	case resource != databricksResource && !slices.Contains(managementResources, resource):
		return nil, refuseByEntra(r, http.StatusBadRequest, "invalid_resource", 500011,
			fmt.Sprintf("The resource principal named %s was not found in the tenant named %s.", form.Get("resource"), tenantID), now)
	}
	r.caller = app.owner
	expires := now.Add(entraTokenLifetime)
	value := unverifiableJWT(map[string]any{
		"iss": "https://sts.windows.net/" + tenantID + "/", "aud": form.Get("resource"), "tid": tenantID, "appid": clientID,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": expires.Unix(), "uti": newUUID(),
	})
	granted := &accessToken{kind: KindEntra, owner: app.owner, expires: expires, account: true, tenantID: tenantID, resource: resource}
	if resource == databricksResource {
		granted.resource = ""
	}
	w.addAccessToken(value, granted)
	r.extra.Set("Cache-Control", "no-store")
	seconds := strconv.Itoa(int(entraTokenLifetime / time.Second))
	return map[string]any{
		"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds,
		"expires_on": strconv.FormatInt(expires.Unix(), 10), "not_before": strconv.FormatInt(now.Unix(), 10),
		"resource": form.Get("resource"), "access_token": value,
	}, nil
}

// checkEntraToken refuses a live token of Microsoft Entra ID that expires too
// soon, or belongs to somebody who isn't in the workspace and doesn't come with
// what proves a right to its Azure resource. The caller holds the mutex.
func (w *Workspace) checkEntraToken(r *request, a *accessToken, now time.Time) *refusal {
	if a.expires.Sub(now) <= entraMargin {
		return refuseByGateway(http.StatusForbidden, "403", "Access token expires within 30 seconds. Please use a token that lives longer.")
	}
	if underAccount(r) || a.owner.inWorkspace {
		return nil
	}
	management := w.access[hashOf(r.Header.Get(headerManagementToken))]
	switch {
	case w.settings.azureResourceID == "" || !strings.EqualFold(r.Header.Get(headerResourceID), w.settings.azureResourceID):
		return w.noAccess()
	case management == nil || !slices.Contains(managementResources, management.resource):
		return w.noAccess()
	case management.owner != a.owner || management.tenantID != a.tenantID || !w.isLive(management, now):
		return w.noAccess()
	}
	return nil
}
