// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const (
	// azureDatabricks is the resource that stands for Azure Databricks in all clouds (Azure Databricks documentation,
	// Microsoft Entra ID tokens).
	azureDatabricks = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d"
	// azureMargin is how long before its expiry a token of Entra ID counts as expired. Databricks refuses one that is about to
	// expire within 30 s, which the official SDK meets with 40 s; on top of that, a call may wait for its whole budget
	// between getting its token and being sent.
	azureMargin = CallBudget + 40*time.Second
)

// azureCloud is what differs between the clouds of Azure.
type azureCloud struct {
	login      string // origin of Entra ID
	management string // resource that stands for the cloud's service management
}

var (
	azurePublic     = azureCloud{"https://login.microsoftonline.com", "https://management.core.windows.net/"}
	azureGovernment = azureCloud{"https://login.microsoftonline.us", "https://management.core.usgovcloudapi.net/"}
	azureChina      = azureCloud{"https://login.chinacloudapi.cn", "https://management.core.chinacloudapi.cn/"}
)

// azureZones are the DNS zones of Azure Databricks, those of account hosts included.
var azureZones = []struct {
	zone  string
	cloud azureCloud
}{
	{".azuredatabricks.net", azurePublic},
	{".databricks.azure.us", azureGovernment},
	{".azuredatabricks.us", azureGovernment},
	{".databricks.azure.cn", azureChina},
	{".azuredatabricks.cn", azureChina},
}

// azureCloudOf returns the cloud that an origin is in. A loopback host, where a simulated workspace may be, is its own Entra
// ID. It is false for a host that isn't of Azure Databricks.
func azureCloudOf(origin string) (azureCloud, bool) {
	if IsLoopback(origin) {
		return azureCloud{origin, azurePublic.management}, true
	}
	u, err := url.Parse(origin)
	if err != nil {
		return azureCloud{}, false
	}
	for _, in := range azureZones {
		if strings.HasSuffix(u.Hostname(), in.zone) {
			return in.cloud, true
		}
	}
	return azureCloud{}, false
}

// azure is the request for a token that Databricks takes. Such tokens have no scopes.
func (g grants) azure(scopes []string) (*grant, error) {
	if len(scopes) > 0 && !slices.Equal(scopes, []string{allAPIs}) {
		return nil, notSent(opEntraToken, "tokens of Entra ID can't be narrowed to scopes; leave the scopes out, or connect with auth_type %q", AuthOAuthM2M)
	}
	return g.entra(azureDatabricks), nil
}

// azureManagement is the request for a token that shows what the identity may do with the workspace as a resource of Azure.
func (g grants) azureManagement(context.Context, []string) (*grant, error) {
	cloud, _ := azureCloudOf(g.cfg.Host)
	return g.entra(cloud.management), nil
}

// entra is the request for a token for a resource (Microsoft documentation, OAuth 2.0 client credentials, version 1).
func (g grants) entra(resource string) *grant {
	cloud, _ := azureCloudOf(g.cfg.Host)
	return &grant{
		op: opEntraToken,
		request: &clientcredentials.Config{
			ClientID:       g.cfg.AzureClientID,
			ClientSecret:   g.cfg.AzureClientSecret.Reveal(),
			TokenURL:       cloud.login + "/" + g.cfg.AzureTenantID + "/oauth2/token",
			EndpointParams: url.Values{"resource": {resource}},
			AuthStyle:      oauth2.AuthStyleInParams,
		},
		secrets: []string{g.cfg.AzureClientSecret.Reveal()},
	}
}
